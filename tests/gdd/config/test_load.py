"""Folders of configuration: every mistake ends in one sentence with the file, the key and what is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gdd.config.load import SCHEMAS, load_config, parse_record, write_schemas
from gdd.config.local import Local, load_local
from gdd.config.recipe import Recipe, Sampler
from gdd.config.records import Dataset
from gdd.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
CONFIG, SETTING, METHOD = "config.yaml", "settings/digits.yaml", "methods/gdd-i.yaml"
TABLE, TEACHER, DATASET = "ablations/small.yaml", "teachers/digits.yaml", "datasets/digits.yaml"
RECIPE_KEYS = ", ".join(sorted(Recipe.model_fields))
POLICIES = "'none', 'conv', 'conv+qkv', 'conv+qkv+skip' or 'norms-only', or a list"
METHODS = "there are: direct, gdd, gdd-i"
FEATURES = "there are: digits-classifier, digits-judge, digits-random"
ROW = ("rows", "GDD")


def refusal(load: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        load()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def sorted_names(sentence: str) -> str:
    """Sort the names after 'there are:', whose order is the file system's business."""
    start, found, names = sentence.rstrip(".").partition("there are: ")
    return start + found + ", ".join(sorted(names.split(", "))) if found else sentence


# (file, where in it, what is put there, what the sentence says besides the file)
UNKNOWN_KEYS = [
    (CONFIG, ("seed",), 0, "unknown key 'seed'; allowed here: seeds, targets."),
    (
        CONFIG,
        ("targets", "all", "table"),
        [],
        "unknown key 'targets.all.table'; allowed here: page, tables, title.",
    ),
    (DATASET, ("sources",), "x", "unknown key 'sources'; allowed here: "),
    (
        TEACHER,
        ("architecture", "widht"),
        3,
        "unknown key 'architecture.widht'; allowed here: attn_resolutions",
    ),
    (TEACHER, ("training", "epochs"), 3, "unknown key 'training.epochs'; allowed here: batch, decay, ema"),
    ("features/digits-judge.yaml", ("depth",), 3, "unknown key 'depth'; allowed here: architecture, batch"),
    (SETTING, ("method",), {}, "unknown key 'method'; allowed here: dataset, evaluation, methods, recipe"),
    (SETTING, ("recipe", "bacth"), 64, f"unknown key 'recipe.bacth'; allowed here: {RECIPE_KEYS}."),
    (SETTING, ("recipe", "r1", "gama"), 64, "unknown key 'recipe.r1.gama'; allowed here: every, gamma."),
    (SETTING, ("evaluation", "blok"), 1, "unknown key 'evaluation.blok'; allowed here: blocks, dataset, "),
    (
        SETTING,
        ("methods", "gdd-i", "frezee"),
        "conv",
        f"unknown key 'methods.gdd-i.frezee'; allowed here: {RECIPE_KEYS}.",
    ),
    (
        SETTING,
        ("methods", "gdd-i", "lr", "gen"),
        1e-3,
        "unknown key 'methods.gdd-i.lr.gen'; allowed here: discriminator, generator.",
    ),
    (METHOD, ("color",), "#000000", "unknown key 'color'; allowed here: adam, "),
    (METHOD, ("objective", "loss"), "hinge", "unknown key 'objective.loss'; allowed here: distributional, "),
    (TABLE, ("row",), {}, "unknown key 'row'; allowed here: caption, "),
    (TABLE, (*ROW, "frezee"), "conv", "unknown key 'rows.GDD.frezee'; allowed here: adam, "),
    (
        TABLE,
        (*ROW, "lr"),
        {"gen": 1.0},
        "unknown key 'rows.GDD.lr.gen'; allowed here: discriminator, generator.",
    ),
    (TABLE, ("rows", "lr"), {"gen": 1.0}, "unknown key 'rows.lr.gen'; allowed here: adam, "),
    (TABLE, ("curve",), {"z": 1}, "unknown key 'curve.z'; allowed here: x, y."),
]
WRONG_VALUES = [
    (CONFIG, ("seeds",), [0, -1], "'seeds.1' is -1: input should be greater than or equal to 0."),
    (CONFIG, ("seeds",), 0, "'seeds' is 0: input should be a list."),
    (CONFIG, ("seeds",), [], "'seeds' is []: it needs at least one entry."),
    (CONFIG, ("seeds",), [0, 0], "'seeds' is [0, 0]: 0 stands twice."),
    (CONFIG, ("targets", "all", "page"), "A page", "'targets.all.page' is 'A page': string should match"),
    (DATASET, ("source",), "mnist", "'source' is 'mnist': input should be 'digits'."),
    (DATASET, ("images",), "many", "'images' is 'many': input should be a valid integer."),
    (TEACHER, ("training", "lr"), "1", "'training.lr' is '1': input should be a valid number."),
    (
        TEACHER,
        ("architecture", "img_resolution"),
        9,
        "'architecture': img_resolution 9 cannot be halved 1 times",
    ),
    (SETTING, ("recipe", "batch"), True, "'recipe.batch' is True: input should be a valid integer."),
    (SETTING, ("recipe", "batch"), None, "'recipe.batch' is empty: give it a value or leave the key out."),
    (SETTING, ("recipe", "lr"), 1e-3, "'recipe.lr' is 0.001: input should be keys and values."),
    (SETTING, ("recipe", "freeze"), "cnov", f"'recipe.freeze' is 'cnov': input should be {POLICIES}."),
    (
        SETTING,
        ("methods", "gdd-i", "freeze"),
        "cnov",
        f"'methods.gdd-i.freeze' is 'cnov': input should be {POLICIES}.",
    ),
    (METHOD, ("freeze",), ["a", 1], "'freeze.1' is 1: input should be a valid string."),
    (METHOD, ("objective", "distributional"), "wgan", "input should be 'softplus' or 'hinge'."),
    (METHOD, ("colour",), "red", "'colour' is 'red': string should match pattern '^#[0-9a-f]{6}$'."),
    (METHOD, ("marker",), "h", "'marker' is 'h': input should be 'o', 's', 'D',"),
    (TABLE, (*ROW, "freeze"), "cnov", f"'rows.GDD.freeze' is 'cnov': input should be {POLICIES}."),
    (TABLE, (*ROW, "freeze"), None, "'rows.GDD.freeze' is empty: give it a value or leave the key out."),
    (TABLE, ROW, None, "'rows.GDD' is empty: input should be keys and values."),
    (TABLE, ROW, "gdd", "'rows.GDD' is 'gdd': input should be keys and values."),
    (TABLE, ("columns",), ["fid", "kid"], "'columns.1' is 'kid': input should be 'fid', "),
    (TABLE, ("columns",), [], "'columns' is []: it needs at least one entry."),
    (TABLE, ("curve",), {"y": "seconds"}, "'curve.y' is 'seconds': input should be 'fid'"),
    (TABLE, ("seeds",), [], "'seeds' is []: it needs at least one entry."),
]
MISSING_KEYS = [
    (CONFIG, ("seeds",), ..., "the key 'seeds' is missing."),
    (DATASET, ("images",), ..., "the key 'images' is missing."),
    (TEACHER, ("training", "ema", "half_life"), ..., "the key 'training.ema.half_life' is missing."),
    (SETTING, ("title",), ..., "the key 'title' is missing."),
    (SETTING, ("evaluation", "extractor"), ..., "the key 'evaluation.extractor' is missing."),
    (SETTING, ("recipe", "images"), ..., "the key 'images' is missing."),
    (SETTING, ("recipe", "lr", "generator"), ..., "the key 'lr.generator' is missing."),
    (METHOD, ("colour",), ..., "the key 'colour' is missing."),
    (METHOD, ("objective",), ..., "the key 'objective' is missing."),
    (TABLE, ("columns",), ..., "the key 'columns' is missing."),
    (TABLE, (*ROW, "method"), ..., "'rows.GDD': a row needs either 'method' or 'teacher_steps'."),
    (TABLE, ("setting",), ..., "give either 'setting' or 'settings'."),
    (TABLE, ("rows",), ..., "give either 'rows' or 'grid'."),
]
IMPOSSIBLE = [
    (
        SETTING,
        ("recipe", "batch"),
        96,
        "'batch' (96) cannot be divided into groups of 'heads.norm_group' (64)",
    ),
    (SETTING, ("recipe", "images"), 32, "'images' (32) is less than one 'batch' (64)."),
    (
        SETTING,
        ("recipe", "backbones"),
        [],
        "a distributional objective needs at least one network in 'backbones'.",
    ),
    (SETTING, ("methods", "gdd-i"), {"batch": 96}, "'batch' (96) cannot be divided into groups of"),
    (
        METHOD,
        ("objective",),
        {},
        "'objective': an objective needs 'distributional' (softplus, hinge), 'instance' (",
    ),
    (TABLE, (*ROW, "batch"), 96, "row 'GDD': 'batch' (96) cannot be divided into groups of"),
    (TABLE, (*ROW, "backbones"), [], "row 'GDD': a distributional objective needs at least one network"),
    (TABLE, (*ROW, "images"), 64, "row 'GDD': 'snapshot_every' ("),
    (TABLE, (*ROW, "teacher_steps"), 3, "'rows.GDD': a row needs either 'method' or 'teacher_steps'."),
    (
        TABLE,
        ("rows", "Teacher", "freeze"),
        "conv",
        "'rows.Teacher': a row with 'teacher_steps' trains nothing",
    ),
    (TABLE, ("settings",), ["digits"], "give either 'setting' or 'settings'."),
    (TABLE, ("grid",), {"method": ["gdd"]}, "give either 'rows' or 'grid'."),
]
UNKNOWN_NAMES = [
    (
        CONFIG,
        ("targets", "all", "tables"),
        ["smal"],
        "'targets.all.tables' is 'smal': no such file in ablations/;",
    ),
    ("features/digits-judge.yaml", ("dataset",), "digit", "'dataset' is 'digit': no such file in datasets/;"),
    (TEACHER, ("dataset",), "digit", "'dataset' is 'digit': no such file in datasets/; there are: digits"),
    (SETTING, ("dataset",), "digit", "'dataset' is 'digit': no such file in datasets/; there are: digits"),
    (SETTING, ("teacher",), "edm", "'teacher' is 'edm': no such file in teachers/; there are: digits"),
    (
        SETTING,
        ("evaluation", "extractor"),
        "vgg",
        f"'evaluation.extractor' is 'vgg': no such file in features/; {FEATURES}",
    ),
    (
        SETTING,
        ("evaluation", "dataset"),
        "x",
        "'evaluation.dataset' is 'x': no such file in datasets/; there are: digits",
    ),
    (
        SETTING,
        ("recipe", "backbones"),
        ["vgg"],
        f"'backbones' is 'vgg': no such file in features/; {FEATURES}",
    ),
    (SETTING, ("methods", "dmd"), {}, f"'methods.dmd' is 'dmd': no such file in methods/; {METHODS}"),
    (TABLE, ("setting",), "ffhq", "'setting' is 'ffhq': no such file in settings/; there are: digits"),
    (TABLE, (*ROW, "method"), "dmd", f"row 'GDD': 'method' is 'dmd': no such file in methods/; {METHODS}"),
    (
        TABLE,
        (*ROW, "backbones"),
        ["vgg"],
        f"row 'GDD': 'backbones' is 'vgg': no such file in features/; {FEATURES}",
    ),
    (
        TABLE,
        (*ROW, "dataset"),
        "x",
        "row 'GDD': 'dataset' is 'x': no such file in datasets/; there are: digits",
    ),
    (
        TABLE,
        (*ROW, "teacher"),
        "x",
        "row 'GDD': 'teacher' is 'x': no such file in teachers/; there are: digits",
    ),
    (
        TABLE,
        ("rows", "Teacher", "teacher"),
        "x",
        "row 'Teacher': 'teacher' is 'x': no such file in teachers/;",
    ),
]
MISTAKES = [*UNKNOWN_KEYS, *WRONG_VALUES, *MISSING_KEYS, *IMPOSSIBLE, *UNKNOWN_NAMES]


@pytest.mark.parametrize(("file", "keys", "value", "sentence"), MISTAKES)
def test_a_mistake_is_one_sentence(
    config_folder: Any, file: str, keys: tuple[str, ...], value: Any, sentence: str
) -> None:
    config_folder.change(file, keys, value)
    found = refusal(config_folder.load)
    assert str(config_folder.path / file) in found
    assert sentence in sorted_names(found)
    assert found.count(str(config_folder.path)) <= 2  # a setting's file and a method's


def test_the_folder_the_mistakes_are_made_in_is_right(config_folder: Any) -> None:
    assert [row.title for row in config_folder.load().tables["small"]] == ["GDD", "GDD-I", "Teacher"]


def test_the_projects_own_configuration_is_right() -> None:
    config = load_config(ROOT / "config")
    assert {"gdd", "gdd-i"} <= set(config.methods)
    assert {"demo", "all"} <= set(config.project.targets)


def test_two_rows_of_one_name(config_folder: Any) -> None:
    text = (config_folder.path / TABLE).read_text().replace("  GDD-I:", "  GDD:")
    config_folder.write(TABLE, text)
    assert refusal(config_folder.load) == f"{config_folder.path / TABLE} line 5: the key 'GDD' stands twice."


def test_a_name_in_a_list_of_settings(config_folder: Any) -> None:
    config_folder.change(TABLE, ("setting",), ...)
    config_folder.change(TABLE, ("settings",), ["digits", "ffhq"])
    assert "'settings' is 'ffhq': no such file in settings/; there are: digits." in refusal(
        config_folder.load
    )
    config_folder.change(TABLE, ("settings",), ["digits", "digits"])
    assert "'settings' is ['digits', 'digits']: 'digits' stands twice." in refusal(config_folder.load)


def test_targets_that_get_in_each_others_way(config_folder: Any) -> None:
    target = {"title": "T", "page": "index", "tables": ["small"]}
    config_folder.change(CONFIG, ("targets", "demo"), target)
    assert "'demo' and 'all' have the same page; rename one." in refusal(config_folder.load)
    config_folder.change(CONFIG, ("targets",), {"small": target})
    assert "the target 'small' has the name of an ablation; rename one." in refusal(config_folder.load)


# Folders


def test_missing_folders_and_files(config_folder: Any, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert refusal(lambda: load_config(nowhere)) == f"The configuration folder {nowhere} does not exist."
    (config_folder.path / CONFIG).unlink()
    assert refusal(config_folder.load) == f"{config_folder.path / CONFIG} does not exist."


def test_a_users_own_folder_adds_a_table(config_folder: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    table = (config_folder.path / TABLE).read_text()
    (mine / "ablations").mkdir(parents=True)
    (mine / "ablations" / "batches.yaml").write_text(
        table.replace("GDD: {method: gdd}", "GDD: {method: gdd-x}")
    )
    (mine / "methods").mkdir()
    method = (config_folder.path / "methods" / "gdd.yaml").read_text()
    (mine / "methods" / "gdd-x.yaml").write_text(method.replace("softplus", "hinge"))
    experiments = config_folder.load(mine)
    assert set(experiments.config.ablations) == {"small", "batches"}
    run = experiments.tables["batches"][0].runs[0]
    assert (run.id, run.recipe.objective.distributional) == ("gdd-x", "hinge")
    assert experiments.config.roots == (config_folder.path, mine)
    assert experiments.config.where("ablations", "batches") == str(mine / "ablations" / "batches.yaml")
    # What stood there before is what it was.
    assert experiments.tables["small"] == config_folder.load().tables["small"]


def test_one_name_in_two_folders(config_folder: Any, tmp_path: Path) -> None:
    own, mine = config_folder.path / TABLE, tmp_path / "mine" / TABLE
    mine.parent.mkdir(parents=True)
    mine.write_text(own.read_text())
    sentence = refusal(lambda: config_folder.load(tmp_path / "mine"))
    assert sentence == f"{mine}: 'small' is already defined by {own}."


def test_a_mistake_in_a_users_own_folder_is_found_there(config_folder: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "ablations" / "other.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("title: T\nsetting: ffhq\nrows: {A: {method: gdd}}\ncolumns: [fid]\n")
    assert refusal(lambda: config_folder.load(tmp_path / "mine")).startswith(f"{mine}: 'setting' is 'ffhq': ")


def test_a_folder_of_something_else(config_folder: Any) -> None:
    # Easily done: naming the folder of ablations itself.
    wrong = config_folder.path / "ablations"
    sentence = refusal(lambda: config_folder.load(wrong))
    assert sentence.startswith(f"The configuration folder {wrong} has none of the folders datasets, ")


@pytest.mark.parametrize("name", ["other.yml", "my table.yaml", "gdd.batch-8.yaml", "-x.yaml", "ä.yaml"])
def test_file_names_that_would_be_overlooked_or_mistaken(config_folder: Any, name: str) -> None:
    config_folder.write(f"ablations/{name}", (config_folder.path / TABLE).read_text())
    sentence = refusal(config_folder.load)
    assert sentence.startswith(
        f"{config_folder.path / 'ablations' / name}: the file's name has to be letters"
    )


@pytest.mark.parametrize(
    ("text", "found"), [("", "nothing"), ("# nothing yet\n", "nothing"), ("- a\n", "a list")]
)
def test_files_without_keys(config_folder: Any, text: str, found: str) -> None:
    config_folder.write(TABLE, text)
    assert refusal(config_folder.load).endswith(f"small.yaml: expected keys and values, found {found}.")


@pytest.mark.parametrize("kind", ["datasets", "features", "teachers", "settings", "methods", "ablations"])
def test_asking_for_what_does_not_exist(config_folder: Any, kind: str) -> None:
    config = config_folder.load().config
    sentence = refusal(lambda: getattr(config, kind)["nowhere"])
    assert sentence.startswith(f"There is no 'nowhere' in {kind}/; there are: ")
    assert "nowhere" not in getattr(config, kind)


# This machine


def test_local_facts(tmp_path: Path) -> None:
    assert load_local(tmp_path) == Local()
    (tmp_path / "local.yaml").write_text("# nothing yet\n")
    assert load_local(tmp_path) == Local()
    (tmp_path / "local.yaml").write_text("partitoin: gpu\n")
    assert "unknown key 'partitoin'; allowed here: " in refusal(lambda: load_local(tmp_path))


def test_the_example_of_local_facts(tmp_path: Path) -> None:
    example = (ROOT / "config" / "local.example.yaml").read_text()
    (tmp_path / "local.yaml").write_text(example)
    assert load_local(tmp_path) == Local()
    uncommented, count = re.subn(r"^# (?=[a-z_]+: )", "", example, flags=re.MULTILINE)
    (tmp_path / "local.yaml").write_text(uncommented)
    local = load_local(tmp_path)
    assert local.model_fields_set == set(Local.model_fields)
    assert count == len(Local.model_fields)


# The command line


def test_records_of_the_command_line(tmp_path: Path) -> None:
    assert parse_record(Sampler, ' {"steps": 3}') == Sampler(steps=3)
    (tmp_path / "sampler.yaml").write_text("steps: 3\n")
    (tmp_path / "sampler.json").write_text('{"steps": 3}')
    assert parse_record(Sampler, str(tmp_path / "sampler.yaml")) == Sampler(steps=3)
    assert parse_record(Sampler, str(tmp_path / "sampler.json")) == Sampler(steps=3)
    assert parse_record(Dataset, str(ROOT / "config" / DATASET)).images == 1797


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{steps: 3}", "command line: the sampler is not valid JSON (Expecting property name"),
        ('{"stesp": 3}', "command line: unknown key 'stesp'; allowed here: churn, churn_max"),
        ('{"steps": 0}', "command line: 'steps' is 0: input should be greater than 0."),
        ("nowhere.json", "nowhere.json does not exist."),
        ("x" * 300, f"{'x' * 300} cannot be read (["),
    ],
)
def test_mistakes_on_the_command_line(text: str, sentence: str) -> None:
    assert refusal(lambda: parse_record(Sampler, text)).startswith(sentence)


def test_schemas_are_written_one_a_kind_of_file(tmp_path: Path) -> None:
    written = write_schemas(tmp_path / "schema")
    assert [path.stem for path in written] == list(SCHEMAS)
    assert json.loads(written[0].read_text())["additionalProperties"] is False
