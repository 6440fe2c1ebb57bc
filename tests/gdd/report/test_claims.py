"""Claims: the verdict of each, from the numbers by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from gdd.errors import UserError
from gdd.report.claims import verdicts
from gdd.report.table import build_table
from gdd.report.table_files import write_table


def claim(better, than, column="fid"):
    return "claims: " + yaml.safe_dump(
        [{"better": better, "than": than, "in": column}], default_flow_style=True
    )


# The runs of a row differ by a standard deviation of 0.105, so means have to be 0.21 apart.
@pytest.mark.parametrize(
    ("better", "than", "fids", "verdict", "agree"),
    [
        ("GDD", "Direct", {}, "holds", 6),
        ("Direct", "GDD", {}, "does not hold", 0),
        ("GDD-I", "GDD", {}, "within the spread", 6),  # 0.05 apart, in every pair
        ("GDD", "Direct", {"Direct": (0.49, 1.7, 1.6, 1.6, 1.8, 1.7)}, "within the spread", 5),
        ("Direct", "GDD", {"Direct": (0.49, 1.7, 1.6, 1.6, 1.8, 1.7)}, "within the spread", 1),
        ("GDD", "GDD-I", {"GDD_I": (0.5, 0.6, 0.7, 0.6, 0.7, 0.8)}, "within the spread", 0),
        ("GDD-I", "Teacher", {"GDD_I": (0.2, 0.2, 0.2, 0.2, 0.2, 0.2)}, "holds", 6),
    ],
)
def test_repeated_training(repeat, better, than, fids, verdict, agree):
    (found,) = verdicts(repeat(claim(better, than), **fids))
    (pair,) = found.pairs
    assert (found.verdict, pair.verdict) == (verdict, verdict)
    assert (pair.spread_of, pair.pairs, pair.agree) == ("training", 6, agree)
    assert found.rule.startswith(
        "Holds: the difference of the means exceeds twice the pooled training spread"
    )


def test_the_evidence_of_a_pair(repeat):
    (found,) = verdicts(repeat(claim("GDD", "Direct")))
    (pair,) = found.pairs
    assert (pair.better_mean, pair.than_mean) == (pytest.approx(0.65), pytest.approx(1.65))
    assert pair.spread == pytest.approx(0.011**0.5)
    assert found.text == "GDD has a lower FID than Direct"
    assert found.evidence(pair) == "GDD: 0.65; Direct: 1.65; pooled training spread 0.10; 6 of 6 pairs agree"


def test_every_pair_of_rows_has_to_hold(repeat):
    several = claim(["GDD", "GDD-I"], ["Direct", "Both"]).removesuffix("]\n")
    (both, one, higher, lower) = verdicts(
        repeat(
            f"{several}, {{better: GDD-I, than: [Direct, GDD], in: fid}}, "
            "{better: Direct, than: GDD, in: recall}, {better: GDD, than: Direct, in: recall}]",
            Both=(0.7,) * 6,
            Direct=(0.1,) * 6,
        )
    )
    assert [(pair.better, pair.than) for pair in both.pairs] == [
        (a, b) for a in ("GDD", "GDD-I") for b in ("Direct", "Both")
    ]
    assert [pair.verdict for pair in both.pairs] == ["does not hold", "within the spread"] * 2
    assert (both.verdict, one.verdict) == ("does not hold", "does not hold")
    assert both.text == "GDD and GDD-I have a lower FID than Direct and Both"
    # In recall, where higher is better, all runs of a row are equal here: 0.92 of Direct, 0.70 of GDD.
    assert (higher.verdict, lower.verdict) == ("holds", "does not hold")


@pytest.mark.parametrize(
    ("blocks", "fids", "verdict", "spread"),
    [
        (3, (0.3, 0.5), "in this one run", "sampling"),
        (3, (0.5, 0.3), "not in this one run", "sampling"),
        (3, (0.45, 0.5), "within the spread", "sampling"),
        (1, (0.45, 0.5), "in this one run", "none"),
        (1, (0.5, 0.5), "not in this one run", "none"),
    ],
)
def test_one_run_a_row_never_holds(project, blocks, fids, verdict, spread):
    one = (
        "{title: T, setting: digits, rows: {A: {method: gdd-i}, B: {method: gdd}}, columns: [fid], "
        "claims: [{better: A, than: B, in: fid}]}"
    )
    experiments = project(one=one, blocks=blocks, fids={"A": fids[:1], "B": fids[1:]})
    (found,) = verdicts(build_table(experiments, "one"))
    assert (found.verdict, found.pairs[0].spread_of) == (verdict, spread)
    assert "proves nothing" in found.rule


def test_a_run_without_a_number_leaves_a_claim_open(project, change):
    both = (
        "{title: T, settings: [digits, other], rows: {A: {method: gdd}, B: {method: gdd-i}}, columns: [fid], "
        "claims: [{better: B, than: A, in: fid}]}"
    )
    experiments = project(seeds=(0, 1), both=both)
    change("other/gdd/seed1", {"fid": None})
    table = build_table(experiments, "both")
    assert [(found.setting, found.verdict) for found in verdicts(table)] == [
        ("digits", "holds"),
        ("other", "undecided"),
    ]
    text = write_table(table)[1].read_text()
    assert "- **Holds:** Digits 8x8: B has a lower FID than A.\n  - B: 0.32; A: 0.51; pooled" in text
    assert "- **Undecided:** Other digits: B has" in text
    (first, _) = json.loads(Path("results/tables/both.json").read_text())["claims"]
    assert (first["better"], first["than"], first["in"], first["verdict"]) == (["B"], ["A"], "fid", "holds")
    assert first["pairs"][0]["agree"] == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "{better: GDD, than: GDI, in: fid}",
            "a claim is on the row 'GDI', which is not here; there are: GDD, GDD-I",
        ),
        ("{better: [GDD, GDD-I], than: GDD, in: fid}", "a claim has the row 'GDD' on both sides"),
        ("{better: GDD, than: Direct, in: fd}", "there is no column 'fd'; did you mean 'fid'?"),
        (
            "{better: GDD, than: Direct, in: images}",
            "no claim can be made in the column 'images'; choose one",
        ),
        ("{better: GDD, than: Direct, in: reported_fid}", "can be made in the column 'reported_fid'"),
        ("{better: GDD, than: Direct}", "the key 'claims.0.in' is missing"),
        (
            "{better: GDD, then: Direct, in: fid}",
            "unknown key 'claims.0.then'; allowed here: better, in, than",
        ),
    ],
)
def test_claims_that_cannot_be_decided_are_refused(project, text, sentence):
    table = "{title: T, setting: digits, rows: {GDD: {method: gdd}, GDD-I: {method: gdd-i}, Direct: {method: direct}}, "
    with pytest.raises(UserError) as caught:
        project(claiming=f"{table}columns: [fid], claims: [{text}]}}")
    assert sentence in str(caught.value)


def test_what_others_published_stands_where_there_is_a_file_of_it(project, over):
    """It has one number, which every run compares with, and no row in other settings."""
    theirs = "{title: Theirs, holds: images, licence: free, settings: {digits: {where: somewhere}}}"
    table = (
        "{title: E, settings: [digits, other], rows: {GDD: {method: gdd}, Theirs: {external: theirs}}, "
        "columns: [fid], claims: [{better: GDD, than: Theirs, in: fid}]}"
    )
    experiments = project(seeds=(0, 1), other={"external/theirs": theirs}, published=table)
    folder = Path("results/external/digits/theirs")
    folder.mkdir(parents=True)
    metrics = json.loads(Path("results/runs/digits/gdd/seed0/metrics.json").read_text())
    del metrics["best"], metrics["also_at"], metrics["curve"]
    blocks = [{"start": 2_000 * index, "fid": fid} for index, fid in enumerate((0.90, 0.85, 0.95))]
    final = {"images": 0, "weights_sha256": "e" * 64, **over(blocks)}
    changes = {"kind": "external", "evaluations": None, "licence": "free", "final": final}
    (folder / "metrics.json").write_text(json.dumps({**metrics, **changes}))
    found = build_table(experiments, "published")
    (verdict,) = verdicts(found)
    assert (verdict.setting, verdict.verdict) == ("digits", "holds")
    assert (verdict.pairs[0].agree, verdict.pairs[0].pairs, verdict.pairs[0].spread_of) == (2, 2, "training")
    markdown = write_table(found)[1].read_text()
    assert "| Digits 8x8 | Theirs | 0.90 ± 0.05 |" in markdown
    assert "| Other digits | Theirs |" not in markdown
