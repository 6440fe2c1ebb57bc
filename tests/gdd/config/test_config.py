"""Folders of configuration: what they add up to, and that a mistake ends in one sentence that says where."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gdd.config.config import load_config
from gdd.config.local import Local
from gdd.errors import UserError, shown
from gdd.experiments import Experiments

ROOT = Path(__file__).resolve().parents[3]
CONFIG, SETTING, METHOD, LOCAL = "config.yaml", "settings/digits.yaml", "methods/gdd-i.yaml", "local.yaml"
TABLE, TEACHER, DATASET = "ablations/small.yaml", "teachers/digits.yaml", "datasets/digits.yaml"
EXTERNAL, REPORTED = "external/sim.yaml", "reported.yaml"
SIM = {"title": "Sim", "holds": "generator", "licence": "none", "settings": {"digits": {"where": "a page"}}}
SOURCE = {"use": "", "url": "https://a.b/c", "path": "d", "bytes": None, "checksum": None, "licence": ""}


@pytest.fixture
def project(config_folder: Any) -> Any:
    """The small table with a row of what others published."""
    config_folder.write(EXTERNAL, yaml.safe_dump(SIM))
    config_folder.change(TABLE, ("rows", "Theirs"), {"external": "sim"})
    config_folder.write(LOCAL, "{}\n")
    config_folder.write(REPORTED, "reported: [{setting: digits, method: gdd, fid: 1, source: x}]\n")
    return config_folder


def refusal(load: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        load()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


# (file, where in it, the name that is put there, the kind of which there is none of that name, and those there are)
UNKNOWN_NAMES = [
    (DATASET, ("statistics",), "x", "sources.yaml", "none"),
    (TEACHER, ("dataset",), "x", "datasets/", "digits"),
    ("features/digits-judge.yaml", ("dataset",), "x", "datasets/", "digits"),
    (SETTING, ("dataset",), "x", "datasets/", "digits"),
    (SETTING, ("teacher",), "x", "teachers/", "digits"),
    (SETTING, ("recipe", "backbones"), ["x"], "features/", "digits-classifier"),
    (SETTING, ("methods", "x"), {}, "methods/", "direct"),
    (SETTING, ("evaluation", "extractor"), "x", "features/", "digits-classifier"),
    (SETTING, ("evaluation", "dataset"), "x", "datasets/", "digits"),
    (METHOD, ("teacher",), "x", "teachers/", "digits"),
    (TABLE, ("setting",), "x", "settings/", "digits"),
    (TABLE, ("teachers",), ["x"], "teachers/", "digits"),
    (TABLE, ("rows", "GDD", "method"), "x", "methods/", "direct"),
    (TABLE, ("rows", "Teacher", "teacher"), "x", "teachers/", "digits"),
    (TABLE, ("rows", "Theirs", "external"), "x", "external/", "sim"),
    (EXTERNAL, ("settings", "x"), {}, "settings/", "digits"),
    (EXTERNAL, ("settings", "digits", "published"), "x", "sources.yaml", "none"),
    (CONFIG, ("targets", "all", "tables"), ["x"], "ablations/", "small"),
    (REPORTED, ("reported", 0, "setting"), "x", "settings/", "digits"),
    (LOCAL, ("external",), {"sim": {"x": "/x"}}, "settings/", "digits"),
    (LOCAL, ("external",), {"x": {"digits": "/x"}}, "external/", "sim"),
    (LOCAL, ("raw_data",), {"x": "/x"}, "the raw data of datasets/", "none"),
]


@pytest.mark.parametrize(("file", "keys", "name", "place", "there"), UNKNOWN_NAMES)
def test_an_unknown_name_is_one_sentence(
    project: Any, file: str, keys: tuple[str, ...], name: Any, place: str, there: str
) -> None:
    project.change(file, keys, name)
    sentence = refusal(project.load)
    assert sentence.startswith(f"{project.path / file}: '{keys[0]}")
    assert f" is 'x': no such file in {place}; there are: {there}" in sentence


@pytest.mark.parametrize(
    ("file", "keys", "value", "sentence"),
    [
        (SETTING, ("recipe", "lr", "generator"), ..., "the key 'lr.generator' is missing."),
        (SETTING, ("recipe", "batch"), None, "'batch' is empty: input should be a valid integer."),
        (SETTING, ("methods", "gdd-i"), {"batch": 96}, "'batch' (96) cannot be divided into groups of"),
        (TABLE, ("rows", "GDD", "batch"), 96, ", row 'GDD': 'batch' (96) cannot be divided into groups of"),
        (SETTING, ("recipe", "backbones"), ["vgg16_bn"], "the backbone 'vgg16_bn' takes images of 3 channels, the data set 'digits'"),
        (TABLE, ("rows", "GDD", "method"), "gddi", "no such file in methods/; did you mean 'gdd-i'? there are: direct"),
        (TABLE, ("columns",), ["fid", "clip_fid"], "'columns' has clip_fid, which digits does not compute; add"),
        (CONFIG, ("targets", "small"), {"title": "", "page": "x", "tables": ["small"]}, "ablations/small.yaml: 'small' is the name"),
        (CONFIG, ("targets", "all", "page"), "small", "ablations/small.yaml: 'small' is the name of a target or page in"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together(
    project: Any, file: str, keys: tuple[str, ...], value: Any, sentence: str
) -> None:
    project.change(file, keys, value)
    found = refusal(project.load)
    assert str(project.path / file) in found
    assert sentence in found


@pytest.mark.parametrize("classes", [0, 1])
def test_a_classifier_of_one_class(project: Any, classes: int) -> None:
    project.change(DATASET, ("classes",), classes)
    assert f"{project.path}/features/digits-classifier.yaml: a classifier is trained on two" in refusal(
        project.load
    )
    for name in ("classifier", "judge"):
        project.change(f"features/digits-{name}.yaml", ("steps",), 0)
    project.load()


def test_the_folder_the_mistakes_are_made_in_is_right(project: Any) -> None:
    experiments = project.load()
    assert [row.title for row in experiments.tables["small"]] == ["GDD", "GDD-I", "Teacher", "Theirs"]
    (theirs,) = (row for row in experiments.tables["small"] if row.external)
    assert (theirs.runs, theirs.metrics()) == ((), [Path("results/external/digits/sim/metrics.json")])


def test_others_work_stands_only_in_settings_it_was_published_for(project: Any) -> None:
    settings = project.path / "settings"
    (settings / "other.yaml").write_bytes((settings / "digits.yaml").read_bytes())
    project.change(TABLE, ("setting",), ...)
    project.change(TABLE, ("settings",), ["digits", "other"])
    rows = project.load().rows("small")
    assert [row.setting for row in rows if row.external] == ["digits"]
    assert [row.setting for row in rows if row.method == "gdd"] == ["digits", "other"]
    project.change(TABLE, ("settings",), ["other"])
    assert "has a file for digits, none of which is a setting of the table." in refusal(project.load)


# --- folders --------------------------------------------------------------------------------------------


def test_missing_folders_and_files(config_folder: Any, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert refusal(lambda: load_config(nowhere)) == f"The configuration folder {nowhere} does not exist."
    wrong = config_folder.path / "ablations"  # easily done: naming the folder of ablations itself
    assert "has none of the folders datasets, " in refusal(lambda: config_folder.load(wrong))
    (config_folder.path / "schema").mkdir()  # of `gdd schema`
    (config_folder.path / ".git").mkdir()
    config_folder.load()
    misspelt = tmp_path / "mine" / "methds"
    (tmp_path / "mine" / "ablations").mkdir(parents=True)
    misspelt.mkdir()
    sentence = refusal(lambda: config_folder.load(tmp_path / "mine"))
    assert sentence.startswith(
        f"{misspelt} is none of the folders of a configuration; did you mean 'methods'? "
    )
    (config_folder.path / CONFIG).unlink()
    assert refusal(config_folder.load) == f"{config_folder.path / CONFIG} does not exist."


def test_a_users_own_folder_adds_a_table(config_folder: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    table = (config_folder.path / TABLE).read_text()
    (mine / "ablations").mkdir(parents=True)
    own = mine / "ablations" / "batches.yaml"
    own.write_text(table.replace("GDD: {method: gdd}", "GDD: {method: gdd-x}"))
    assert refusal(lambda: config_folder.load(mine)).startswith(f"{own}: 'rows.GDD.method' is 'gdd-x': ")
    (mine / "methods").mkdir()
    method = (config_folder.path / "methods" / "gdd.yaml").read_text()
    (mine / "methods" / "gdd-x.yaml").write_text(method.replace("softplus", "hinge"))
    experiments = config_folder.load(mine)
    run = experiments.tables["batches"][0].runs[0]
    assert (run.id, run.recipe.objective.distributional) == ("gdd-x", "hinge")
    # What stood there before is what it was.
    assert experiments.tables["small"] == config_folder.load().tables["small"]
    own.rename(mine / TABLE)
    assert "'small' is already defined by" in refusal(lambda: config_folder.load(mine))


@pytest.mark.parametrize(
    ("name", "path", "sentence"),
    [("other", "d", "'tiny' and 'other' have the same path, d."), ("tiny", "e", "has a 'tiny' already.")],
)
def test_two_sources_cannot_share_a_place_or_a_name(
    config_folder: Any, tmp_path: Path, name: str, path: str, sentence: str
) -> None:
    config_folder.write("sources.yaml", yaml.safe_dump({"sources": {"tiny": SOURCE}}))
    (tmp_path / "mine" / "ablations").mkdir(parents=True)
    twin = yaml.safe_dump({"sources": {name: SOURCE | {"path": path}}})
    (tmp_path / "mine" / "sources.yaml").write_text(twin)
    found = refusal(lambda: config_folder.load(tmp_path / "mine"))
    assert found.startswith(f"{tmp_path}/mine/sources.yaml: ")
    assert sentence in found


@pytest.mark.parametrize("name", ["other.yml", "my table.yaml", "gdd.batch-8.yaml", "-x.yaml", "ä.yaml"])
def test_file_names_that_would_be_overlooked_or_mistaken(config_folder: Any, name: str) -> None:
    config_folder.write(f"ablations/{name}", (config_folder.path / TABLE).read_text())
    sentence = refusal(config_folder.load)
    assert sentence.startswith(f"{config_folder.path}/ablations/{name}: the file's name has to be letters")


# (file, where in it, what is called so)
NAMED = [
    (CONFIG, ("targets",), {"title": "", "page": "x", "tables": ["small"]}),
    (CONFIG, ("targets", "all", "page"), None),
    (DATASET, ("raw",), None),
    ("sources.yaml", ("sources",), SOURCE),
]


@pytest.mark.parametrize("name", ["$(touch pwned)demo", "a b", "-x", ".x", "x\n", "", "a;b", "{a}", "x'y"])
@pytest.mark.parametrize(("file", "keys", "value"), NAMED)
def test_names_that_a_shell_would_take_apart(
    config_folder: Any, file: str, keys: tuple[str, ...], value: Any, name: str
) -> None:
    config_folder.write("sources.yaml", "sources: {}\n")
    config_folder.change(file, (*keys, name) if value else keys, value or name)
    sentence = refusal(config_folder.load)
    assert sentence.startswith(f"{config_folder.path / file}: '{'.'.join(keys)}")
    assert f" is {name!r}: a name has to be letters, digits, '_', '.', '+' and '-', of which" in sentence


# --- this machine ---------------------------------------------------------------------------------------


def test_the_example_of_local_facts(tmp_path: Path) -> None:
    config = shutil.copytree(ROOT / "config", tmp_path / "config")
    assert load_config(config).local == Local()
    example = (ROOT / "config" / "local.example.yaml").read_text()
    (config / LOCAL).write_text(example)
    assert load_config(config).local == Local()
    uncommented, count = re.subn(r"^# (?=[a-z0-9_]+: )", "", example, flags=re.MULTILINE)
    (config / LOCAL).write_text(uncommented)
    assert load_config(config).local.model_fields_set == set(Local.model_fields)
    assert count == len(Local.model_fields)


@pytest.mark.parametrize(
    "mirror",
    ["ftp://me:secret@a.b/", "https://me:secret/x@a.b/", "https://[me:secret@a.b/"],
)
def test_no_password_of_a_mirror_is_shown(config_folder: Any, mirror: str) -> None:
    config_folder.write(LOCAL, yaml.safe_dump({"mirrors": {"https://x.org/": mirror}}))
    assert "secret" not in refusal(config_folder.load)


def test_addresses_are_shown_without_passwords() -> None:
    text = (
        "at https://me:pass@a.b/c, http://me:p@ss@a.b/c, //me:p/ss@a.b/c, http://a.b/@c and http://a.b:80/@c"
    )
    assert shown(text) == "at https://a.b/c, http://a.b/c, //a.b/c, http://a.b/@c and http://a.b:80/@c"


@pytest.mark.parametrize("key", ["partition", "cpu_partition", "account", "gpu_model"])
@pytest.mark.parametrize("value", ["a\ntouch pwned", "a b", "", "\x1b[2J"])
def test_what_sbatch_is_given_is_one_word(config_folder: Any, key: str, value: str) -> None:
    config_folder.write(LOCAL, yaml.safe_dump({key: value}))
    assert f"'{key}' is {value!r}: string should match pattern '^[!-~]+$'." in refusal(config_folder.load)


# --- the project's own ----------------------------------------------------------------------------------


def test_the_projects_own_configuration() -> None:
    experiments = Experiments(load_config(ROOT / "config"))
    assert {"gdd", "gdd-i"} <= set(experiments.config.methods)
    rows = experiments.rows("external")
    published = {(row.external, row.setting) for row in rows if row.external}
    assert len(published) == 12
    assert {(of.external, of.setting) for of in experiments.config.reported if of.external} == published
    assert {row.setting: row.teacher_steps for row in rows if row.teacher_steps} == {
        "cifar10-uncond": 18, "cifar10-cond": 18, "afhqv2": 40, "ffhq": 40, "imagenet": 256,
    }  # fmt: skip


def test_a_setting_is_like_another_but_for_what_it_says(config_folder: Any) -> None:
    config_folder.write(
        "settings/short.yaml",
        "like: digits\ntitle: Short\nrecipe: {images: 640, snapshot_every: 640, r1: {every: 4}}\n",
    )
    experiments = config_folder.load()
    short, digits = (experiments.config.settings[name] for name in ("short", "digits"))
    assert (short.like, short.title, short.evaluation) == ("digits", "Short", digits.evaluation)
    changed, recipe = experiments.find("short", "gdd-i"), experiments.find("digits", "gdd-i")
    r1 = recipe.r1.model_copy(update={"every": 4})
    assert changed == recipe.model_copy(update={"images": 640, "snapshot_every": 640, "r1": r1})


@pytest.mark.parametrize(
    ("like", "sentence"),
    [
        ("digit", "'like' is 'digit': no such file in settings/"),
        ("short", "which is like 'digits' itself; name"),
    ],
)
def test_a_setting_like_none_or_like_one_that_is_like_another(
    config_folder: Any, like: str, sentence: str
) -> None:
    config_folder.write("settings/short.yaml", "like: digits\ntitle: Short\n")
    config_folder.write("settings/shorter.yaml", f"like: {like}\ntitle: Shorter\n")
    with pytest.raises(UserError, match=sentence):
        config_folder.load()
