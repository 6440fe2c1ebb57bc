"""What the settings in config/ promise of each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gdd.config.config import Config
from gdd.config.records import Monitor
from gdd.experiments import Experiments

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def config(papers: Experiments) -> Config:
    return papers.config


def test_rates_are_searched_in_the_demo_setting_but_for_the_data(papers: Experiments) -> None:
    for method in papers.config.methods:
        demo = papers.find("digits", method).model_dump()
        search = papers.find("digits-search", method).model_dump()
        different = {key for key in demo if demo[key] != search[key]}
        assert different <= {"dataset", "teacher", "backbones", "snapshot_every", "lr"}
        assert demo["lr"]["discriminator"] == search["lr"]["discriminator"]
        assert [name.replace("digits-train", "digits") for name in search["backbones"]] == list(
            demo["backbones"]
        )


def test_the_committed_search_is_of_its_ablation_and_its_rates_are_the_demos(papers: Experiments) -> None:
    text = (ROOT / "config" / "settings" / "digits-rates.md").read_text()
    search = papers.config.ablations["rate-search"]
    assert f"\n{search.caption}\n" in text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    for method in search.grid["method"]:
        (cells,) = (row for row in rows if row[0] == papers.config.methods[method].title)
        (best,) = (column for column, cell in zip(rows[0], cells, strict=True) if cell.startswith("**"))
        assert best == f"lr.generator {papers.find('digits', method).lr.generator:g}"


def test_teachers_differ_only_in_data_or_seed(config: Config) -> None:
    first = config.teachers["digits"]
    assert config.teachers["digits-train"].training == first.training
    for name in ("digits-train", "digits-b"):
        assert config.teachers[name].architecture == first.architecture
    other = config.teachers["digits-b"].training
    assert other.seed != first.training.seed
    assert other.model_copy(update={"seed": first.training.seed}) == first.training


def test_the_judge_is_independent_of_the_discriminator(config: Config) -> None:
    digits = [setting for name, setting in config.settings.items() if name.startswith("digits")]
    assert digits
    for setting in digits:
        judge = config.features[setting.evaluation.extractor]
        for name in setting.recipe.backbones:
            network = config.features[name]
            assert network.architecture != judge.architecture
            assert network.seed != judge.seed


def test_paper_settings_follow_the_release(papers: Experiments) -> None:
    """Batch, rates, lengths and backbones of the release's commands, and its schedule."""
    deit, vgg = "deit_base_distilled_patch16_224", "vgg16_bn"
    expected = {
        "cifar10-uncond": (256, 1e-4, 1e-4, 500_000, 5_000_000, vgg),
        "cifar10-cond": (256, 1e-4, 1e-4, 500_000, 5_000_000, vgg),
        "afhqv2": (256, 2e-5, 4e-5, 500_000, 10_000_000, deit),
        "ffhq": (256, 2e-5, 4e-5, 500_000, 10_000_000, deit),
        "imagenet": (512, 8e-6, 4e-5, 50_000_000, 10_000_000, deit),
    }
    for setting, (batch, generator, discriminator, half_life, images, first) in expected.items():
        for method in ("gdd", "gdd-i"):
            recipe = papers.find(setting, method)
            assert (recipe.batch, recipe.images, recipe.snapshot_every) == (batch, images, 250_000)
            assert (recipe.lr.generator, recipe.lr.discriminator) == (generator, discriminator)
            assert (recipe.adam.beta1, recipe.adam.beta2) == (0, 0.99)
            assert (recipe.ema.half_life, recipe.ema.ramp) == (half_life, 0.05)
            assert recipe.backbones == (first, "tf_efficientnet_lite0")
            assert recipe.heads.kind == "downsampling"
            assert (recipe.heads.projection_channels, recipe.heads.projections) == (64, 4)  # 4 processes
            assert recipe.heads.norm_group == batch / 4
            assert (recipe.r1.gamma, recipe.r1.every) == (pytest.approx(1e-4 / recipe.heads.norm_group), 16)
            assert recipe.backbone_statistics == "release"
            assert (recipe.reuse_fakes, recipe.precision, recipe.init) == (False, "bfloat16", "teacher")
            assert recipe.objective.distributional == "softplus"
            assert recipe.objective.instance is None
        # Enough for Inception's features, a tenth of what is judged in the end.
        assert papers.config.settings[setting].monitor == Monitor(fid=5_000)
        assert papers.find(setting, "gdd").freeze == "none"
        assert papers.find(setting, "gdd-i").freeze == "conv"


def test_instance_based_objectives_of_the_papers_settings_follow_the_release(papers: Experiments) -> None:
    settings = [name for name, setting in papers.config.settings.items() if not name.startswith("digits")]
    assert len(settings) == 6
    for setting in settings:
        for method in ("direct", "gdd-direct", "pd", "cd", "ctm", "rcd"):
            recipe = papers.find(setting, method)
            assert (recipe.objective.distance, recipe.adam.beta1) == ("lpips", 0)
            if "direct" not in method:
                assert recipe.objective.grid == 1024
        both = papers.find(setting, "gdd-direct")
        assert both.objective.instance_weight == 1 / both.heads.norm_group


def test_paper_teachers_have_the_published_architectures(config: Config, golden: Path) -> None:
    published = json.loads((golden / "edm_teachers.json").read_text())
    names = [name for name, teacher in config.teachers.items() if teacher.published]
    assert len(names) == 5
    for name in names:
        arch = config.teachers[name].architecture.model_dump(mode="json")
        for key, value in published[name]["arch"].items():
            assert arch[key] == value, (name, key)


def test_data_sets_of_the_paper_have_their_full_size(config: Config) -> None:
    counts = {name: dataset.images for name, dataset in config.datasets.items() if dataset.statistics}
    assert counts == {"cifar10": 50_000, "ffhq": 70_000, "afhqv2": 15_803, "imagenet": 1_281_167}


def test_all_has_both_methods_in_every_setting_of_the_paper(papers: Experiments) -> None:
    rows = papers.rows("paper")
    assert len({run.folder for row in rows for run in row.runs}) == 10
    assert {(row.method, row.at) for row in rows} == {
        (method, at) for method in ("gdd", "gdd-i") for at in (5_000_000, "end", "best")
    }
    assert "paper" in papers.config.project.targets["all"].tables
