"""Runs of tables: which they are, and how their recipes come about."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gdd.errors import UserError
from gdd.experiments import Experiments

TABLE, RUNS = "ablations/small.yaml", Path("results/runs/digits")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def experiments(config_folder: Any) -> Experiments:
    found: Experiments = config_folder.load()
    return found


def copy_record(config_folder: Any, kind: str, name: str) -> None:
    """Make a second record like that of the digits."""
    config_folder.write(f"{kind}/{name}.yaml", (config_folder.path / kind / "digits.yaml").read_text())


def several_settings(config_folder: Any) -> None:
    copy_record(config_folder, "settings", "more")
    config_folder.change("settings/more.yaml", ("recipe", "batch"), 128)
    config_folder.change(TABLE, ("setting",), ...)
    config_folder.change(TABLE, ("settings",), ["digits", "more"])


# Recipes


def test_a_recipe_is_merged_from_setting_method_and_row(experiments: Experiments) -> None:
    setting = experiments.config.settings["digits"]
    plain = experiments.recipe("digits", "gdd", {}, "here")
    assert plain.lr.generator == setting.recipe.lr.generator
    assert plain.objective.distributional == "softplus"
    assert plain.teacher_sampler == setting.teacher_sampler
    # The method's changes in the setting leave the rate that they do not name.
    partly = experiments.recipe("digits", "gdd-i", {}, "here")
    assert (partly.lr.generator, partly.lr.discriminator) == (1e-3, setting.recipe.lr.discriminator)
    # A row has the last word, over the setting's own keys too, and can take a loss away.
    row = {"lr": {"generator": 5e-3}, "teacher_sampler": {"churn": 1.0}, "freeze": "none"}
    changed = experiments.recipe("digits", "gdd-i", row, "here")
    assert (changed.lr.generator, changed.freeze) == (5e-3, "none")
    assert (changed.teacher_sampler.steps, changed.teacher_sampler.churn) == (18, 1.0)
    row = {"objective": {"distributional": None, "instance": "direct"}}
    assert experiments.recipe("digits", "gdd", row, "here").objective.distributional is None


def test_backbones_that_no_file_defines(experiments: Experiments) -> None:
    found = experiments.recipe("digits", "gdd", {"backbones": ["teacher-encoder"]}, "here")
    assert found.backbones == ("teacher-encoder",)
    with pytest.raises(
        UserError, match="here: the backbone 'vgg16_bn' takes images of 3 channels, the data set"
    ):
        experiments.recipe("digits", "gdd", {"backbones": ["teacher-encoder", "vgg16_bn"]}, "here")
    with pytest.raises(UserError, match=r"'backbones.0' is 'encoder': .* digits-random, teacher-encoder, "):
        experiments.recipe("digits", "gdd", {"backbones": ["encoder"]}, "here")


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("img_resolution", 16, "makes 1-channel images of 16 pixels, the data set 'digits' holds 1-channel"),
        ("img_channels", 3, "makes 3-channel images of 8 pixels, the data set 'digits' holds 1-channel"),
        ("label_dim", 7, "knows 7 classes, the data set 'digits' has 10; choose a teacher of this data set."),
        ("label_dim", 10, None),  # as well as none
    ],
)
def test_a_teacher_of_other_images_is_refused(
    config_folder: Any, key: str, value: int, sentence: str | None
) -> None:
    config_folder.change("teachers/digits.yaml", ("architecture", key), value)
    if sentence is None:
        config_folder.load()
        return
    with pytest.raises(UserError) as caught:
        config_folder.load()
    assert sentence in str(caught.value)


# Rows


def test_rows(experiments: Experiments) -> None:
    gdd, gdd_i, teacher = experiments.tables["small"]
    assert (gdd.title, gdd.setting, gdd.method, gdd.teacher_steps) == ("GDD", "digits", "gdd", None)
    assert gdd.metrics() == [RUNS / "gdd/seed0/metrics.json"]
    assert gdd_i.runs[0].folder == RUNS / "gdd-i.lr.discriminator-0.0003/seed0"
    assert (teacher.method, teacher.teachers, teacher.teacher_steps) == (None, ("digits",), 18)
    assert teacher.metrics() == [Path("results/teachers/digits/metrics/digits-steps18.json")]
    assert teacher.samples() == Path("results/teachers/digits/samples/digits-steps18.npz")


def test_tables_share_a_run(config_folder: Any) -> None:
    config_folder.write(
        "ablations/another.yaml",
        "title: T\nsettings: [digits]\ncolumns: [fid]\nrows:\n"
        "  Detour: {method: gdd, freeze: conv, lr: {generator: 1e-3, discriminator: 3e-4}}\n"
        "  Plain: {method: gdd, batch: 64}\n",
    )
    experiments = config_folder.load()
    detour, plain = experiments.tables["another"]
    first, second, _ = experiments.tables["small"]
    assert (detour.runs, plain.runs) == (second.runs, first.runs)


def test_seeds(config_folder: Any) -> None:
    config_folder.change("config.yaml", ("seeds",), [0, 3])
    row = config_folder.load().tables["small"][0]
    assert [run.seed for run in row.runs] == [0, 3]
    assert row.metrics() == [RUNS / f"gdd/seed{seed}/metrics.json" for seed in (0, 3)]
    config_folder.change(TABLE, ("seeds",), [7])
    assert [run.seed for run in config_folder.load().tables["small"][0].runs] == [7]


def test_teachers(config_folder: Any) -> None:
    copy_record(config_folder, "teachers", "other")
    config_folder.change(TABLE, ("teachers",), ["digits", "other"])
    config_folder.change(TABLE, ("seeds",), [0, 1])
    rows = config_folder.load().tables["small"]
    runs = [(run.id, run.seed) for run in rows[0].runs]
    assert runs == [(name, seed) for name in ("gdd", "gdd.teacher-other") for seed in (0, 1)]
    assert rows[2].teachers == ("digits", "other")
    assert [path.parts[2] for path in rows[2].metrics()] == ["digits", "other"]
    config_folder.change(TABLE, ("rows", "Teacher", "teacher"), "other")
    assert config_folder.load().tables["small"][2].teachers == ("other",)
    config_folder.change(TABLE, ("rows", "GDD", "teacher"), "other")
    with pytest.raises(UserError, match="so no row can name a 'teacher'"):
        config_folder.load()


def test_settings(config_folder: Any) -> None:
    several_settings(config_folder)
    rows = config_folder.load().tables["small"]
    settings, titles = ("digits", "more"), ("GDD", "GDD-I", "Teacher")
    assert [(row.setting, row.title) for row in rows] == [
        (one, title) for one in settings for title in titles
    ]
    # An id belongs to its setting: what is plain here need not be so there.
    first, second = rows[0].runs[0], rows[3].runs[0]
    assert [(run.setting, run.id, run.recipe.batch) for run in (first, second)] == [
        ("digits", "gdd", 64),
        ("more", "gdd", 128),
    ]
    config_folder.change(TABLE, ("choose",), True)
    with pytest.raises(UserError, match="'choose' chooses for one setting; write a file for each"):
        config_folder.load()


def grid(config_folder: Any, values: dict[str, list[Any]]) -> Experiments:
    config_folder.change(TABLE, ("rows",), ...)
    config_folder.change(TABLE, ("grid",), values)
    found: Experiments = config_folder.load()
    return found


def test_a_grid_crosses_values(config_folder: Any) -> None:
    values = {"method": ["gdd", "gdd-i"], "lr.generator": [1e-4, 1e-2], "lr.discriminator": [1e-5]}
    rows = grid(config_folder, values).tables["small"]
    titles = ["gdd, 0.0001, 1e-05", "gdd, 0.01, 1e-05", "gdd-i, 0.0001, 1e-05", "gdd-i, 0.01, 1e-05"]
    assert [row.title for row in rows] == titles
    recipes = [row.runs[0].recipe for row in rows]
    assert [recipe.lr.generator for recipe in recipes] == [1e-4, 1e-2] * 2
    assert {recipe.lr.discriminator for recipe in recipes} == {1e-5}
    assert len({row.runs[0].id for row in rows}) == 4


def test_a_grid_of_teachers_steps(config_folder: Any) -> None:
    rows = grid(config_folder, {"teacher_steps": [1, 2, 4]}).tables["small"]
    assert [row.teacher_steps for row in rows] == [1, 2, 4]


GDD = {"method": ["gdd"]}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"method": "gdd"}, "'grid.method' is 'gdd': input should be a list."),
        ({"method": []}, "'grid.method' is []: it needs at least one entry."),
        ({"method": ["gdd", "gdd"]}, "'grid.method' is ['gdd', 'gdd']: 'gdd' stands twice."),
        ({"batch": [64]}, "grid '64': give exactly one of 'method', 'teacher_steps', 'external'."),
        (GDD | {"lr.gen": [1.0]}, "unknown key 'lr.gen'; allowed here: discriminator, generator."),
        (GDD | {"batch.size": [1]}, "grid 'gdd, 1': 'batch' is {'size': 1}: input should be a valid"),
        (GDD | {"freeze": ["cnov"]}, "grid 'gdd, cnov': 'freeze' is 'cnov': input should be 'none'"),
        (
            {"method": ["gdd", "dmd"]},
            "grid 'dmd': 'method' is 'dmd': no such file in methods/; did you mean 'gdd'? ",
        ),
        (GDD | {"batch": [64, 96]}, "row 'gdd, 96': 'batch' (96) cannot be divided into"),
        (GDD | {"freeze": ["none", ["none"], "['none']"]}, "input should be 'none', 'conv'"),
    ],
)
def test_mistakes_in_a_grid(config_folder: Any, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        grid(config_folder, values)
    assert str(caught.value).startswith(str(config_folder.path / TABLE))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"method": "gdd", "at": 64},
            ", row 'New': 'at' is 64, but the setting 'digits' evaluates the snapshots at "
            "no count and the end; add it",
        ),
        ({"external": "sid"}, ": 'rows.New.external' is 'sid': no such file in external/"),
        ({"teacher_steps": 2, "teacher": "x"}, ": 'rows.New.teacher' is 'x': no such file in teachers/"),
    ],
)
def test_mistakes_in_a_row(config_folder: Any, row: dict[str, Any], sentence: str) -> None:
    config_folder.change(TABLE, ("rows", "New"), row)
    with pytest.raises(UserError) as caught:
        config_folder.load()
    assert str(caught.value).startswith(f"{config_folder.path / TABLE}{sentence}")


# Looking runs up


def test_every_run_is_found_under_its_name(experiments: Experiments) -> None:
    runs = {run for rows in experiments.tables.values() for row in rows for run in row.runs}
    assert len(runs) == 2
    assert all(experiments.find(run.setting, run.id) == run.recipe for run in runs)
    assert experiments.find("digits", "direct").objective.instance == "direct"  # in no table


def test_a_run_that_nobody_asks_for(experiments: Experiments) -> None:
    with pytest.raises(UserError) as caught:
        experiments.find("digits", "gdd.batch-99")
    assert str(caught.value) == (
        "No table and no method has a run 'gdd.batch-99' in the setting 'digits'; "
        "there are: gdd, gdd-i.lr.discriminator-0.0003, direct, gdd-i."
    )
    with pytest.raises(UserError, match=r"in the setting 'digits'; did you mean 'direct'\? there are: gdd"):
        experiments.find("digits", "drect")
    with pytest.raises(UserError, match="There is no 'ffhq' in settings/; there are: digits"):
        experiments.recipe("ffhq", "gdd", {}, "here")
    with pytest.raises(UserError, match="There is no 'nothing' in ablations/; there are: small"):
        experiments.tables["nothing"]


def test_what_a_workflow_loads_imports_no_torch() -> None:
    code = "import sys, gdd.cli, gdd.stages, workflow.lib.rules; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"'torch'", "'matplotlib'", "'snakemake'"} & set(done.stdout.strip("[]\n").split(", "))
