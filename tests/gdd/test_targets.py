"""What the rules ask: the files of a target, the parameters and inputs of a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gdd.config.evaluation import Evaluation
from gdd.config.load import load_config, parse_record
from gdd.config.recipe import Recipe, Sampler
from gdd.config.records import Dataset, FeatureNetwork, Teacher
from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.targets import Targets
from gdd.targets.paths import alternatives, dataset_file, reference_distances

TABLE, SETTING = "ablations/small.yaml", "settings/digits.yaml"
RUN = SimpleNamespace(setting="digits", run="gdd", seed="0")


@pytest.fixture
def targets(config_folder: Any) -> Targets:
    return Targets(config_folder.load())


# What a person asks for


def test_tables_and_figures_of_an_ablation(config_folder: Any, targets: Targets) -> None:
    tables = [f"results/tables/small.{ending}" for ending in ("csv", "md", "tex", "json")]
    figures = ["results/figures/small-samples.png", "results/figures/small-samples.pdf"]
    assert targets.ablations() == ["small"]
    page = ["results/site/small.html"]
    assert targets.of_ablation("small") == tables + figures + page
    config_folder.change(TABLE, ("curve",), {"y": "fid"})
    curves = ["results/figures/small-curve.png", "results/figures/small-curve.pdf"]
    assert set(Targets(config_folder.load()).of_ablation("small")) == {*tables, *figures, *curves, *page}


def test_several_runs_have_a_figure_of_their_spread(config_folder: Any) -> None:
    config_folder.change(TABLE, ("seeds",), [0, 1])
    figures = Targets(config_folder.load()).figure_files("small")
    assert {"results/figures/small-spread.png", "results/figures/small-spread.pdf"} <= set(figures)


def test_a_search_chooses_and_shows_no_samples(config_folder: Any, targets: Targets) -> None:
    assert targets.choice_files("small") == []
    config_folder.change(TABLE, ("rows",), ...)
    config_folder.change(TABLE, ("grid",), {"method": ["gdd"], "lr.generator": [1e-4, 1e-3]})
    config_folder.change(TABLE, ("choose",), {"per": "method", "by": "fid"})
    search = Targets(config_folder.load())
    assert search.figure_files("small") == []
    choice = ["results/tables/small-choice.yaml", "results/tables/small-choice.md"]
    page = "results/site/small.html"
    assert search.of_ablation("small") == [*search.table_files("small"), *choice, page]


def test_the_pattern_of_tables_leaves_out_what_they_choose(targets: Targets) -> None:
    assert re.fullmatch(targets.table_names(), "small")
    assert not re.fullmatch(targets.table_names(), "small-choice")


def test_pages(config_folder: Any) -> None:
    config_folder.change(
        "config.yaml", ("targets", "demo"), {"title": "D", "page": "demo", "tables": ["small"]}
    )
    targets = Targets(config_folder.load())
    assert targets.pages() == ["all", "demo"]
    assert targets.page("all") == "results/site/index.html"
    assert targets.page_target(SimpleNamespace(page="index")) == "all"
    assert targets.page_target(SimpleNamespace(page="demo")) == "demo"
    assert json.loads(targets.page_params(SimpleNamespace(page="demo")))["title"] == "D"


def test_a_page_rests_on_its_tables_and_their_runs(targets: Targets) -> None:
    inputs = targets.page_inputs(SimpleNamespace(page="index"))
    assert set(targets.made_from_metrics("small")) <= set(inputs)
    assert inputs == targets.page_inputs(SimpleNamespace(page="small"))
    assert set(targets.table_inputs(SimpleNamespace(table="small"))) <= set(inputs)
    assert len(inputs) == len(set(inputs))


# The parameters of a file lead back to its record


def test_records(targets: Targets) -> None:
    config = targets.config
    dataset = parse_record(Dataset, targets.dataset_record(SimpleNamespace(dataset="digits")))
    network = parse_record(FeatureNetwork, targets.features_record(SimpleNamespace(name="digits-judge")))
    teacher = parse_record(Teacher, targets.teacher_record(SimpleNamespace(teacher="digits")))
    # What says nothing about the content costs no work when it is reworded.
    assert dataset == config.datasets["digits"].model_copy(update={"title": "", "licence": ""})
    assert network == config.features["digits-judge"].model_copy(update={"title": ""})
    assert teacher == config.teachers["digits"].model_copy(update={"title": ""})
    assert parse_record(Recipe, targets.recipe_json(RUN)) == targets.experiments.find("digits", "gdd")
    assert parse_record(Evaluation, targets.evaluation(RUN)) == config.settings["digits"].evaluation


def test_data_of_networks_and_teachers(targets: Targets) -> None:
    assert targets.features_data(SimpleNamespace(name="digits-judge")) == dataset_file("digits")
    assert targets.teacher_data(SimpleNamespace(teacher="digits")) == dataset_file("digits")
    assert dataset_file("digits") == "results/datasets/digits/identity.json"


def test_the_sampler_of_a_teachers_file(config_folder: Any) -> None:
    config_folder.change(SETTING, ("teacher_sampler",), {"steps": 18, "churn": 2.0})
    targets = Targets(config_folder.load())
    sampler = parse_record(Sampler, targets.sampler(SimpleNamespace(setting="digits", steps="4")))
    assert sampler == Sampler(steps=4, churn=2.0)


# The inputs of a run


def test_inputs_of_a_run(targets: Targets) -> None:
    assert targets.run_teacher(RUN) == "results/teachers/digits/model.safetensors"
    assert targets.run_teacher_identity(RUN) == "results/teachers/digits/model.json"
    assert targets.run_data(RUN) == dataset_file("digits")
    assert targets.run_backbones(RUN) == [
        f"results/features/{name}.safetensors" for name in targets.config.settings["digits"].recipe.backbones
    ]
    assert targets.run_pairs(RUN) == []


def test_a_run_without_a_discriminator_waits_for_no_backbone(targets: Targets) -> None:
    direct = SimpleNamespace(setting="digits", run="direct", seed="0")
    pairs = targets.recipe(direct).objective.pairs
    assert pairs > 0
    assert targets.run_backbones(direct) == []
    assert targets.run_pairs(direct) == [f"results/pairs/digits/steps18-{pairs}.safetensors"]


def test_pairs_solved_on_the_way_are_no_input(config_folder: Any) -> None:
    config_folder.change("methods/direct.yaml", ("objective",), {"instance": "direct"})
    direct = SimpleNamespace(setting="digits", run="direct", seed="0")
    assert Targets(config_folder.load()).run_pairs(direct) == []


def test_the_teachers_encoder_is_no_file(config_folder: Any) -> None:
    backbones = ["teacher-encoder", "digits-random"]
    config_folder.change(SETTING, ("recipe", "backbones"), backbones)
    found = Targets(config_folder.load()).run_backbones(RUN)
    assert found == ["results/features/digits-random.safetensors"]


# Evaluation


def test_what_a_setting_is_judged_with(config_folder: Any, targets: Targets) -> None:
    assert targets.reference_data(RUN) == dataset_file("digits")
    judge = "results/features/digits-judge.safetensors"
    assert targets.judges(RUN) == [judge]
    assert targets.judge_options(RUN) == [f"--extractor digits-judge={judge}"]
    folder = targets.reference_folder(RUN)
    assert folder == "results/references/digits"
    assert targets.references(RUN) == [f"{folder}/digits-judge.npz", f"{folder}/pixels.npz"]
    config_folder.change(SETTING, ("evaluation", "pixels"), False)
    assert Targets(config_folder.load()).references(RUN) == [f"{folder}/digits-judge.npz"]


def test_other_images_to_judge_with(config_folder: Any) -> None:
    config_folder.write("datasets/rest.yaml", (config_folder.path / "datasets" / "digits.yaml").read_text())
    config_folder.change(SETTING, ("evaluation", "dataset"), "rest")
    with pytest.raises(UserError, match="cannot stand beside"):
        config_folder.load()
    config_folder.change(SETTING, ("evaluation", "pixels"), False)
    targets = Targets(config_folder.load())
    assert targets.reference_data(RUN) == dataset_file("rest")
    assert targets.references(RUN) == ["results/references/rest/digits-judge.npz"]
    assert targets.run_data(RUN) == dataset_file("digits")  # training sees its own


def test_a_run_is_measured_on_the_way_with_what_judges_it_in_the_end(config_folder: Any) -> None:
    plain = Targets(config_folder.load())
    assert (plain.run_monitor(RUN), plain.file_options(RUN)) == ([], [])
    config_folder.write("datasets/rest.yaml", (config_folder.path / "datasets" / "digits.yaml").read_text())
    config_folder.change(SETTING, ("evaluation", "dataset"), "rest")
    config_folder.change(SETTING, ("evaluation", "pixels"), False)
    config_folder.change(SETTING, ("monitor",), {"fid": 200, "every": 640})
    targets = Targets(config_folder.load())
    judge, reference = "results/features/digits-judge.safetensors", "results/references/rest/digits-judge.npz"
    assert targets.run_monitor(RUN) == [judge, reference]
    assert targets.file_options(RUN) == [
        "--monitor-fid 200",
        "--monitor-every 640",
        f"--judge {judge}",
        f"--judge-reference {reference}",
        "--judge-dataset rest",
    ]
    # No run becomes another by it, nor does anything that is shown or judged.
    for one in (plain, targets):
        assert one.recipe(RUN) == plain.recipe(RUN)
    table = SimpleNamespace(table="small")
    assert targets.table_params(table) == plain.table_params(table)
    assert "monitor" not in json.dumps(json.loads(targets.evaluation(RUN)))


# Tables


def test_inputs_of_a_table(targets: Targets) -> None:
    gdd, gdd_i = (f"results/runs/digits/{run}/seed0" for run in ("gdd", "gdd-i.lr.discriminator-0.0003"))
    teacher = "results/teachers/digits"
    wanted = SimpleNamespace(table="small")
    assert set(targets.table_inputs(wanted)) == {
        f"{gdd}/metrics.json",
        f"{gdd}/run.json",
        f"{gdd_i}/metrics.json",
        f"{gdd_i}/run.json",
        f"{teacher}/metrics/digits-steps18.json",
    }
    assert set(targets.sample_inputs(wanted)) == {
        f"{gdd}/samples",
        f"{gdd_i}/samples",
        f"{teacher}/samples/digits-steps18.npz",
    }


def test_a_shared_run_is_one_input(config_folder: Any) -> None:
    config_folder.change(TABLE, ("rows", "Same"), {"method": "gdd", "batch": 64})
    targets = Targets(config_folder.load())
    for inputs in (targets.table_inputs, targets.sample_inputs):
        files = inputs(SimpleNamespace(table="small"))
        assert len(files) == len(set(files))


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        (TABLE, ("caption",), "Another caption"),
        (TABLE, ("columns",), ["fid"]),
        ("methods/gdd-i.yaml", ("colour",), "#123456"),
        ("methods/gdd-i.yaml", ("title",), "Another title"),
        (SETTING, ("title",), "Another title"),
    ],
)
def test_a_table_is_made_again_when_what_it_shows_changes(
    config_folder: Any, targets: Targets, file: str, keys: tuple[str, ...], value: Any
) -> None:
    before = targets.table_params(SimpleNamespace(table="small"))
    config_folder.change(file, keys, value)
    assert Targets(config_folder.load()).table_params(SimpleNamespace(table="small")) != before


def test_a_table_is_left_alone_when_something_else_changes(config_folder: Any, targets: Targets) -> None:
    before = targets.table_params(SimpleNamespace(table="small"))
    config_folder.change("methods/direct.yaml", ("colour",), "#123456")
    config_folder.write("ablations/other.yaml", (config_folder.path / TABLE).read_text())
    assert Targets(config_folder.load()).table_params(SimpleNamespace(table="small")) == before


@pytest.fixture(scope="module")
def published() -> Targets:
    return Targets(Experiments(load_config("config")))


def test_a_run_of_the_paper_is_given_every_fetched_file(published: Targets) -> None:
    run = SimpleNamespace(setting="imagenet", run="gdd-i", seed="0")
    assert published.run_backbones(run) == [
        "results/fetched/deit-base-distilled-patch16-224.json",
        "results/fetched/tf-efficientnet-lite0.json",
    ]
    assert published.backbone_options(run) == [
        "--backbone deit_base_distilled_patch16_224=resources/backbones/"
        "deit_base_distilled_patch16_224-df68dfff.pth",
        "--backbone tf_efficientnet_lite0=resources/backbones/tf_efficientnet_lite0-0aa007d2.pth",
    ]
    assert published.run_fetched(run) == ["results/fetched/stylegan-xl-class-embeddings.json"]
    assert published.file_options(run) == [
        "--class-embedding resources/backbones/tf_efficientnet_lite0-class-embeddings.pkl",
        "--monitor-fid 5000",
        "--judge resources/metrics/inception-2015-12-05.pt",
        "--judge-reference results/references/imagenet/inception.npz",
        "--judge-dataset imagenet",
    ]
    # Two of the extractors are one file.
    assert published.judges(run) == [
        f"results/fetched/{name}.json" for name in ("inception", "clip-vit-b-32", "dinov2-vit-l-14")
    ]
    inception = "resources/metrics/inception-2015-12-05.pt"
    assert f"--extractor inception={inception}" in published.judge_options(run)
    assert f"--extractor inception-clean={inception}" in published.judge_options(run)
    assert published.references(run) == [
        f"results/references/imagenet/{name}.npz"
        for name in ("inception", "inception-clean", "clip", "dinov2")
    ]


def test_what_a_run_does_not_use_is_not_fetched(published: Targets) -> None:
    assert published.run_fetched(SimpleNamespace(setting="ffhq", run="gdd", seed="0")) == []
    assert published.run_fetched(SimpleNamespace(setting="imagenet", run="cd", seed="0")) == []
    assert published.run_backbones(SimpleNamespace(setting="imagenet", run="cd", seed="0")) == []


def test_lpips_is_fetched_for_those_who_measure_with_it(config_folder: Any) -> None:
    config_folder.change("methods/direct.yaml", ("objective", "distance"), "lpips")
    (config_folder.path / "sources.yaml").write_bytes(Path("config/sources.yaml").read_bytes())
    targets, run = Targets(config_folder.load()), SimpleNamespace(setting="digits", run="direct", seed="0")
    assert targets.run_fetched(run) == ["results/fetched/lpips-vgg16.json"]
    assert targets.file_options(run) == ["--lpips resources/metrics/vgg16-397923af.pth"]


def test_teachers_are_imported_or_trained(published: Targets) -> None:
    for name in published.config.teachers:
        imported = re.fullmatch(published.published_teachers(), name) is not None
        trained = re.fullmatch(published.trained_teachers(), name) is not None
        assert imported != trained
        assert imported == name.startswith("edm-")
    teacher = SimpleNamespace(teacher="edm-ffhq-64x64-uncond-ve")
    assert published.teacher_source(teacher) == "resources/teachers/edm-ffhq-64x64-uncond-ve.pkl"
    assert published.teacher_fetched(teacher) == "results/fetched/edm-ffhq-64x64-uncond-ve.json"
    assert published.teacher_licence(teacher) == "CC BY-NC-SA 4.0"


def test_a_pattern_of_no_names_matches_nothing() -> None:
    assert not re.fullmatch(alternatives([]), "")


def test_published_statistics_are_compared_where_there_are_any(published: Targets) -> None:
    found = reference_distances(published.experiments, "paper")
    datasets = ("cifar10", "afhqv2", "ffhq", "imagenet")
    assert found == [f"references/{name}/inception-published.json" for name in datasets]
    assert reference_distances(published.experiments, "demo-objectives") == []
    assert set(published.page_inputs(SimpleNamespace(page="paper"))) >= {f"results/{path}" for path in found}
    with pytest.raises(UserError, match="'digits' names no published 'statistics'"):
        published.statistics(SimpleNamespace(dataset="digits"))


def test_where_raw_data_lies_is_no_reason_to_prepare_it_again(config_folder: Any) -> None:
    asked = SimpleNamespace(dataset="digits")
    before = Targets(config_folder.load()).dataset_record(asked)
    config_folder.change("datasets/digits.yaml", ("raw",), "elsewhere")
    config_folder.change("datasets/digits.yaml", ("title",), "Another title")
    assert Targets(config_folder.load()).dataset_record(asked) == before


def test_commands_read_the_same_configuration(config_folder: Any, tmp_path: Any) -> None:
    mine = tmp_path / "mine"
    (mine / "ablations").mkdir(parents=True)
    assert Targets(config_folder.load()).environment() == {
        "GDD_CONFIG": str(config_folder.path),
        "GDD_EXTRA": "",
    }
    assert Targets(config_folder.load(mine)).environment()["GDD_EXTRA"] == str(mine)


def test_progress_is_looked_for_where_checkpoints_are_written(config_folder: Any, tmp_path: Any) -> None:
    from gdd.training.run_directory import RunDirectory

    targets = Targets(config_folder.load())
    run = targets.run_state(SimpleNamespace(setting="digits", run="gdd", seed=0))
    assert run == str(RunDirectory("results/runs/digits/gdd/seed0", "").checkpoints.folder)
    teacher = targets.teacher_state(SimpleNamespace(teacher="edm-digits"))
    assert teacher == str(RunDirectory("results/teachers/edm-digits", "").checkpoints.folder)


def test_progress_of_judging_is_looked_for_where_blocks_are_written(config_folder: Any) -> None:
    from gdd.metrics.evaluate import block_file
    from gdd.metrics.stages import BLOCKS

    targets = Targets(config_folder.load())
    run = targets.run_blocks(SimpleNamespace(setting="digits", run="gdd", seed=0))
    assert Path(run) == Path("results/runs/digits/gdd/seed0") / BLOCKS
    out = Path("results/teachers/edm-digits/metrics/digits-steps18.json")
    assert Path(targets.teacher_blocks(SimpleNamespace(teacher="edm-digits"))) == block_file(out, 0).parent
    out = Path("results/external/digits/sid/metrics.json")
    others = targets.external_blocks(SimpleNamespace(setting="digits", external="sid"))
    assert Path(others) == block_file(out, 0).parent


def test_no_variable_is_no_extra_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from gdd.cli import cli

    monkeypatch.setenv("GDD_CONFIG", "nowhere")
    monkeypatch.setenv("GDD_EXTRA", "")
    done = CliRunner().invoke(cli, ["check"])
    assert "nowhere" in str(done.exception)


# What nobody defined


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        (lambda targets: targets.dataset_record(SimpleNamespace(dataset="x")), "datasets"),
        (lambda targets: targets.features_record(SimpleNamespace(name="x")), "features"),
        (lambda targets: targets.features_data(SimpleNamespace(name="x")), "features"),
        (lambda targets: targets.teacher_record(SimpleNamespace(teacher="x")), "teachers"),
        (lambda targets: targets.teacher_data(SimpleNamespace(teacher="x")), "teachers"),
        (lambda targets: targets.evaluation(SimpleNamespace(setting="x")), "settings"),
        (lambda targets: targets.sampler(SimpleNamespace(setting="x", steps="1")), "settings"),
        (lambda targets: targets.table_inputs(SimpleNamespace(table="x")), "ablations"),
        (lambda targets: targets.sample_inputs(SimpleNamespace(table="x")), "ablations"),
        (lambda targets: targets.table_params(SimpleNamespace(table="x")), "ablations"),
        (lambda targets: targets.figure_files("x"), "ablations"),
    ],
)
def test_a_file_of_something_unknown(targets: Targets, ask: Callable[[Targets], Any], kind: str) -> None:
    with pytest.raises(UserError) as caught:
        ask(targets)
    names = ", ".join(getattr(targets.config, kind))
    assert str(caught.value) == f"There is no 'x' in {kind}/; there are: {names}."


def test_an_unknown_page(targets: Targets) -> None:
    with pytest.raises(UserError, match="No target has a page 'x'; there are: index"):
        targets.page_inputs(SimpleNamespace(page="x"))


def test_a_file_of_an_unknown_run(targets: Targets) -> None:
    with pytest.raises(
        UserError, match="No table and no method has a run 'x' in the setting 'digits'; there"
    ):
        targets.run_teacher(SimpleNamespace(setting="digits", run="x", seed="0"))
