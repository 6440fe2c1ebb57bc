from __future__ import annotations

import pytest

from gdd.report.comparison import margin, relation
from gdd.report.findings import findings
from gdd.report.table import Cell, Line
from gdd.report.tables import build_table


@pytest.fixture
def found(make_experiments, write_results, tmp_path):
    """Return a function from numbers to the findings of the table of objectives."""

    def find(seeds=(0,), blocks=3, names=("demo-objectives",), **numbers):
        experiments = make_experiments(seeds=seeds)
        given = {key.replace("_", "-"): value for key, value in numbers.items()}
        write_results(experiments, tmp_path, numbers=given, blocks=blocks)
        return findings([build_table(experiments, name, tmp_path) for name in names], experiments)

    return find


def about(found, words):
    matching = [finding for finding in found if words in finding.text]
    assert len(matching) == 1, [finding.text for finding in found]
    return matching[0]


# FID, precision, recall, pixel FID, pixel precision, pixel recall, nearest, sampling std of FID
GOOD = (0.40, 0.75, 0.97, 0.10, 0.7, 0.7, 1.0, 0.03)
BAD = (3.00, 0.40, 0.50, 2.50, 0.5, 0.5, 1.0, 0.10)


def test_teacher_at_one_step(found):
    finding = about(found(), "At one step")
    assert finding.kind == "holds"
    assert "90 times" in finding.text
    turned = about(found(steps1=GOOD), "At one step")
    assert turned.kind == "turns"
    assert "no worse than every student" in turned.text


def test_distributional_ahead_in_fid_and_behind_in_pixels_and_recall(found):
    every = found()
    fid = about(every, "In FID every model")
    assert fid.kind == "holds"
    assert "GDD-I leads" in fid.text
    assert "GDD (0.50 ± 0.05) against Direct imitation (1.50 ± 0.08), 3.0 times" in fid.text
    assert about(every, "In pixel FID the order turns: Direct imitation").kind == "turns"
    assert about(every, "In recall the order turns: Direct imitation").kind == "turns"


def test_the_same_sentences_the_other_way_round(found):
    every = found(direct=GOOD, gdd=BAD, gdd_i=BAD)
    assert about(every, "In FID the order turns: Direct imitation").kind == "turns"
    every = found(direct=BAD, gdd=GOOD, gdd_i=GOOD)
    assert about(every, "In pixel FID every model with a distributional loss lies below").kind == "holds"
    assert about(every, "In recall every model with a distributional loss lies above").kind == "holds"


def test_mixed_order_is_open(found):
    finding = about(found(gdd_i=GOOD, gdd=BAD), "In FID neither")
    assert finding.kind == "open"
    assert finding.text.index("GDD-I") < finding.text.index("Direct") < finding.text.index("GDD (3.00")


def test_a_lead_within_the_spread_is_open(found):
    finding = about(found(direct=(0.55, 0.56, 0.92, 0.19, 0.7, 0.9, 1.0, 0.08)), "In FID every model")
    assert finding.kind == "open"
    assert "the difference of 0.05 is within twice its sampling spread (0.19)" in finding.text


def test_freezing(found):
    better = about(found(), "Frozen layers")
    assert better.kind == "holds"
    assert "lr.generator (0.001 against 0.0002)" in better.text
    assert about(found(gdd_i=BAD), "freezing does worse").kind == "turns"
    same = about(found(gdd_i=(0.45, 0.74, 0.73, 1.7, 0.7, 0.7, 0.9, 0.05)), "Frozen layers")
    assert same.kind == "open"
    assert "within twice" in same.text


def test_without_any_spread_close_comparisons_are_open(found):
    every = found(blocks=1)
    assert about(every, "Frozen layers").kind == "open"
    assert about(every, "In FID every model").kind == "open"
    assert about(every, "At one step").kind == "holds"  # a factor of ninety needs no error bar


def test_teacher_and_students(found):
    every = about(found(), "is the teacher with 35 network evaluations")
    assert every.kind == "holds"
    assert "GDD-I (0.31 ± 0.04) and GDD (0.50 ± 0.05) lie clearly below it" in every.text
    assert "lies above the teacher's 0.14" in every.text
    assert about(found(steps18=(*GOOD[:-1], 0.3)), "is the teacher").kind == "open"
    assert about(found(gdd=BAD, gdd_i=BAD), "is the teacher").kind == "turns"


def test_one_run_per_row_proves_nothing_and_two_are_a_rough_guess(found):
    assert about(found(), "One training seed proves nothing about the method").kind == "open"
    every = found(seeds=(0, 1))
    assert not any("One training seed" in finding.text for finding in every)
    repeated = about(every, "training spread of FID")
    assert "2 runs per row (2 seeds, one teacher)" in repeated.text
    assert "0.02 (GDD)" in repeated.text
    assert "rough guess" in repeated.text
    assert repeated.kind == "open"
    every = found(seeds=(0, 1, 2))
    assert about(every, "training spread of FID").kind == "holds"
    assert not any("rough guess" in finding.text for finding in every)


def test_blind_spot_is_told_of_learned_features_only(found, make_experiments, write_results, tmp_path):
    finding = about(found(), "looks through a classifier")
    assert finding.kind == "open"
    assert "(digits-classifier)" in finding.text
    assert "digits-random" not in finding.text
    experiments = make_experiments(
        random=(
            "title: R\nsetting: digits\ncolumns: [fid]\nrows: {R: {method: gdd, backbones: [digits-random]}}"
        )
    )
    results = tmp_path / "random"
    write_results(experiments, results, names=["random"])
    every = findings([build_table(experiments, "random", results)], experiments)
    assert not any("looks through" in finding.text for finding in every)


def test_floor(found):
    low = about(found(), "the floor")
    assert low.kind == "open"
    assert "GDD (0.50 ± 0.05) and GDD-I (0.31 ± 0.04) lie at or below twice that" in low.text
    assert about(found(gdd=BAD, gdd_i=BAD), "the floor").kind == "holds"


@pytest.mark.parametrize(("nearest", "kind"), [(0.95, "holds"), (0.7, "open"), (0.1, "turns")])
def test_copies(found, nearest, kind):
    gdd = (0.5, 0.7, 0.7, 1.6, 0.7, 0.6, nearest, 0.05)
    finding = about(found(gdd=gdd), "nearest training image")
    assert finding.kind == kind
    assert ("No sign of copies" in finding.text) == (kind == "holds")


def test_two_tables_say_nothing_twice(found):
    every = found(names=("demo-objectives", "demo-frozen-layers"))
    assert len({finding.text for finding in every}) == len(every)
    about(every, "Frozen layers")


def test_the_spreads_are_never_added_up():
    first, second = Cell(1.0, 0.3, 0.1), Cell(2.0, 0.4, 0.1)
    limit = margin(first, second)
    assert limit is not None
    assert (limit.value, limit.spread) == (pytest.approx(1.0), "training spread")
    assert margin(Cell(1.0), Cell(2.0)) is None


def test_relation_is_judged_by_the_closest_pair():
    def lines(*values):
        return [Line("x", "s", "both", {"recall": Cell(value, None, 0.01)}) for value in values]

    assert relation(lines(0.9, 0.8), lines(0.5), "recall").order == "ahead"
    assert relation(lines(0.9, 0.8), lines(0.79), "recall").clear is False
    assert relation(lines(0.9, 0.4), lines(0.5), "recall").order == "mixed"
    assert relation(lines(0.3, 0.4), lines(0.5), "recall").order == "behind"
