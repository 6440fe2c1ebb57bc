"""What each stage reads, what its hash depends on, and which files a target consists of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.stages import STAGES, showing
from gdd.stages.inputs import external_path, raw_path
from gdd.stages.stage import Stage

TABLE, SETTING = "ablations/small.yaml", "settings/digits.yaml"
DATA, TEACHER = "results/datasets/digits/identity.json", "results/teachers/digits/model"
GDD = {"setting": "digits", "run": "gdd", "seed": "0"}
DIRECT = GDD | {"run": "direct"}


def stage(experiments: Experiments, kind: str, /, **names: Any) -> Stage:
    return STAGES[kind](experiments, **names)


@pytest.fixture(scope="module")
def experiments(pristine_config: Any) -> Experiments:
    found: Experiments = pristine_config.load()
    return found


# --- inputs of runs and evaluations ---------------------------------------------------------------------


def test_inputs_of_a_run(experiments: Experiments) -> None:
    found = stage(experiments, "distill", **GDD)
    backbones = {name: Path(f"results/features/{name}.safetensors") for name in found.paths("backbone")}
    assert list(backbones) == ["digits-classifier", "digits-random"]
    assert found.paths("backbone") == backbones
    # Weights are watched through the file that holds their hash.
    assert found.watched == [DATA, f"{TEACHER}.json", *map(str, backbones.values())]
    assert found.present == [f"{TEACHER}.safetensors"]
    assert (found.path("teacher"), found.find("pairs")) == (Path(f"{TEACHER}.safetensors"), None)


def test_a_run_without_a_discriminator_reads_pairs_and_no_backbone(config_folder: Any) -> None:
    found = stage(config_folder.load(), "distill", **DIRECT)
    assert found.paths("backbone") == {}
    assert "results/pairs/digits/steps18-3000.safetensors" in found.present
    config_folder.change("methods/direct.yaml", ("objective",), {"instance": "direct"})
    assert stage(config_folder.load(), "distill", **DIRECT).find("pairs") is None  # solved on the way


def test_a_run_of_the_paper_reads_fetched_files(papers: Experiments) -> None:
    run = {"setting": "imagenet", "run": "gdd-i", "seed": 0}
    found = stage(papers, "distill", **run)
    fetched = ["deit-base-distilled-patch16-224", "tf-efficientnet-lite0", "stylegan-xl-class-embeddings"]
    assert {f"results/fetched/{name}.json" for name in fetched} <= set(found.watched)
    assert found.path("embedding") == Path("resources/backbones/tf_efficientnet_lite0-class-embeddings.pkl")
    assert found.path("monitor extractor") == Path("resources/metrics/inception-2015-12-05.pt")
    assert stage(papers, "distill", **run | {"run": "cd"}).paths("backbone") == {}
    evaluation = stage(papers, "evaluate_run", **run)
    extractors = evaluation.paths("extractor")
    assert list(extractors) == ["inception", "inception-clean", "clip", "dinov2"]
    assert extractors["inception"] == extractors["inception-clean"]  # one file, watched once
    assert evaluation.watched.count("results/fetched/inception.json") == 1
    assert evaluation.present == [f"results/references/imagenet/{name}.npz" for name in extractors]


def test_what_a_recipe_adds_and_needs_no_file_for(config_folder: Any) -> None:
    config_folder.change(SETTING, ("recipe", "backbones"), ["teacher-encoder", "digits-random"])
    config_folder.change("methods/direct.yaml", ("objective", "distance"), "lpips")
    (config_folder.path / "sources.yaml").write_bytes(Path("config/sources.yaml").read_bytes())
    experiments = config_folder.load()
    assert list(stage(experiments, "distill", **GDD).paths("backbone")) == ["digits-random"]
    assert "results/fetched/lpips-vgg16.json" in stage(experiments, "distill", **DIRECT).watched


def test_other_images_to_evaluate_with(config_folder: Any) -> None:
    config_folder.write("datasets/rest.yaml", (config_folder.path / "datasets/digits.yaml").read_text())
    config_folder.change(SETTING, ("evaluation", "dataset"), "rest")
    with pytest.raises(UserError, match="cannot stand beside"):
        config_folder.load()
    config_folder.change(SETTING, ("evaluation", "pixels"), False)
    config_folder.change(SETTING, ("monitor",), {"fid": 200})
    experiments = config_folder.load()
    evaluation = stage(experiments, "evaluate_run", **GDD)
    assert evaluation.path("data") == Path("results/datasets/rest")
    assert evaluation.present == ["results/references/rest/digits-judge.npz"]
    run = stage(experiments, "distill", **GDD)
    assert (run.path("data"), run.path("monitor reference")) == (
        Path("results/datasets/digits"),  # training sees its own
        Path("results/references/rest/digits-judge.npz"),
    )


def test_teachers_are_imported_or_trained(papers: Experiments) -> None:
    for name, teacher in papers.config.teachers.items():
        inputs = stage(papers, "teacher", teacher=name).inputs
        assert list(inputs) == (["source"] if teacher.published else ["data"])
    found = stage(papers, "teacher", teacher="edm-ffhq-64x64-uncond-ve")
    assert found.path("source") == Path("resources/teachers/edm-ffhq-64x64-uncond-ve.pkl")
    assert found.watched == ["results/fetched/edm-ffhq-64x64-uncond-ve.json"]


def test_what_the_user_has_is_not_fetched(papers: Experiments) -> None:
    assert raw_path(papers.config, "cifar10-10k") == Path("resources/datasets/cifar-10-binary.tar.gz")
    assert stage(papers, "dataset", dataset="cifar10").watched == ["results/fetched/cifar10.json"]
    assert stage(papers, "dataset", dataset="ffhq").watched == []
    assert raw_path(papers.config, "ffhq") is None
    assert external_path(papers.config, "imagenet", "stylegan-xl") is None
    local = papers.config.local.model_copy(update={"raw_data": {"cifar10": "/mine.tar.gz"}})
    assert raw_path(replace(papers.config, local=local), "cifar10-10k") == Path("/mine.tar.gz")


# --- hashes ---------------------------------------------------------------------------------------------


def hashes(experiments: Experiments) -> dict[str, str]:
    names: dict[str, dict[str, Any]] = {
        "dataset": {"dataset": "digits"},
        "features": {"name": "digits-judge"},
        "teacher": {"teacher": "digits"},
        "distill": GDD,
        "evaluate_run": GDD,
        "evaluate_teacher": {"setting": "digits", "teacher": "digits", "steps": "18"},
        "table": {"table": "small"},
    }
    return {name: stage(experiments, name, **of).hash for name, of in names.items()}


@pytest.mark.parametrize(
    ("file", "keys", "value", "changed"),
    [
        (SETTING, ("recipe", "images"), 19_264, {"distill"}),
        (SETTING, ("evaluation", "samples"), 1_000, {"evaluate_run", "evaluate_teacher"}),
        (SETTING, ("teacher_sampler", "churn_max"), 50.0, {"distill", "evaluate_teacher"}),
        (SETTING, ("title",), "Another title", {"table"}),
        (SETTING, ("monitor",), {"fid": 200}, set()),  # no run becomes another by it
        ("teachers/digits.yaml", ("training", "lr"), 1e-3, {"teacher"}),
        ("teachers/digits.yaml", ("title",), "Another title", set()),
        ("datasets/digits.yaml", ("raw",), "elsewhere", set()),
        ("features/digits-judge.yaml", ("steps",), 7, {"features"}),
        (TABLE, ("caption",), "Another caption", {"table"}),
        ("methods/gdd-i.yaml", ("colour",), "#123456", {"table"}),
        ("methods/direct.yaml", ("colour",), "#123456", set()),  # in no row
    ],
)
def test_a_hash_changes_with_what_decides_the_stage(
    experiments: Experiments,
    config_folder: Any,
    file: str,
    keys: tuple[str, ...],
    value: Any,
    changed: set[str],
) -> None:
    config_folder.change(file, keys, value)
    before, after = hashes(experiments), hashes(config_folder.load())
    assert {name for name in before if before[name] != after[name]} == changed


def test_another_configuration_than_planned_is_refused(experiments: Experiments) -> None:
    found = stage(experiments, "distill", **GDD)
    found.expect(None)
    found.expect(found.hash)
    with pytest.raises(UserError, match="the run digits/gdd has changed since this job was planned"):
        found.expect("0" * 12)


# --- targets --------------------------------------------------------------------------------------------


def test_files_of_an_ablation(config_folder: Any) -> None:
    def files() -> list[str]:
        return showing.ablation_files(config_folder.load(), "small")

    tables = [f"results/tables/small.{ending}" for ending in ("csv", "md", "tex", "json")]
    samples = ["results/figures/small-samples.png", "results/figures/small-samples.pdf"]
    assert files() == tables + samples
    config_folder.change(TABLE, ("curve",), "fid")
    config_folder.change(TABLE, ("seeds",), [0, 1])
    kinds = ("curve", "spread", "samples")
    assert [file.split("-")[1] for file in files()[4::2]] == [f"{kind}.png" for kind in kinds]
    config_folder.change(TABLE, ("rows",), ...)
    config_folder.change(TABLE, ("grid",), {"method": ["gdd"], "lr.generator": [1e-4, 1e-3]})
    config_folder.change(TABLE, ("choose",), True)
    assert files()[-2:] == ["results/tables/small-choice.yaml", "results/tables/small-choice.md"]
    assert not any("samples" in file for file in files())  # a grid has too many rows for a picture of each


def test_inputs_of_tables_and_figures(config_folder: Any) -> None:
    config_folder.change(TABLE, ("rows", "Same"), {"method": "gdd", "batch": 64})  # a shared run
    experiments = config_folder.load()
    runs = [f"results/runs/digits/{run}/seed0" for run in ("gdd", "gdd-i.lr.discriminator-0.0003")]
    table = stage(experiments, "table", table="small").watched
    assert len(table) == 5
    assert set(table) == {
        *(f"{run}/{file}" for run in runs for file in ("metrics.json", "run.json")),
        "results/teachers/digits/metrics/digits-steps18.json",
    }
    assert set(stage(experiments, "figure", table="small", kind="samples").watched) == {
        *(f"{run}/samples" for run in runs),
        "results/teachers/digits/samples/digits-steps18.npz",
    }
    page = stage(experiments, "page", page="index").watched
    assert {*table, *showing.ablation_files(experiments, "small")} == set(page)


def test_pages(experiments: Experiments) -> None:
    assert showing.page_of(experiments, "all") == Path("results/site/index.html")
    assert showing.page_of(experiments, "small") == Path("results/site/small.html")
    assert {showing.page_target(experiments, name) for name in ("index", "all")} == {"all"}
    assert showing.page_target(experiments, "small") == "small"


def test_published_statistics_are_compared_where_there_are_any(papers: Experiments) -> None:
    datasets = ("cifar10", "afhqv2", "ffhq", "imagenet")
    found = [f"results/references/{name}/inception-published.json" for name in datasets]
    assert list(map(str, showing.reference_distances(papers, "paper"))) == found
    assert showing.reference_distances(papers, "demo-objectives") == []
    assert set(found) <= set(stage(papers, "page", page="paper").watched)


# --- what nobody defined --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "names", "sentence"),
    [
        ("dataset", {"dataset": "x"}, "There is no 'x' in datasets/; there are: digits."),
        ("evaluate_run", GDD | {"setting": "x"}, "There is no 'x' in settings/; there are: digits."),
        ("table", {"table": "x"}, "There is no 'x' in ablations/; there are: small."),
        ("page", {"page": "x"}, "There is no page 'x'; there are: index, small"),
        ("distance", {"dataset": "digits", "extractor": "inception"}, "'digits' names no published 'statis"),
    ],
)
def test_names_that_do_not_exist(experiments: Experiments, name: str, names: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        stage(experiments, name, **names)
    assert sentence in str(caught.value)
