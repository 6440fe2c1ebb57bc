"""Every mistake in a file ends in one sentence with the file, the key and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gdd.config.recipe import Recipe
from gdd.errors import UserError

CONFIG, SETTING, METHOD = "config.yaml", "settings/digits.yaml", "methods/gdd-i.yaml"
TABLE, TEACHER, DATASET = "ablations/small.yaml", "teachers/digits.yaml", "datasets/digits.yaml"
RECIPE_KEYS = ", ".join(sorted(Recipe.model_fields))
POLICIES = "'none', 'conv', 'conv+qkv', 'conv+qkv+skip' or 'norms-only', or a list"
METHODS = "there are: direct, gdd, gdd-i"
FEATURES = "there are: digits-classifier, digits-judge, digits-random"
NETWORKS = "there are: deit_base_distilled_patch16_224, digits-classifier, digits-judge, digits-random"
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
    (
        SETTING,
        ("method",),
        {},
        "unknown key 'method'; allowed here: dataset, evaluation, methods, monitor, notes, recipe",
    ),
    (SETTING, ("recipe", "bacth"), 64, f"unknown key 'recipe.bacth'; allowed here: {RECIPE_KEYS}."),
    (SETTING, ("recipe", "r1", "gama"), 64, "unknown key 'recipe.r1.gama'; allowed here: every, gamma."),
    (
        SETTING,
        ("evaluation", "blok"),
        1,
        "unknown key 'evaluation.blok'; allowed here: also_at, blocks, dataset, ",
    ),
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
    (
        METHOD,
        ("objective", "loss"),
        "hinge",
        "unknown key 'objective.loss'; allowed here: distance, distributional, ",
    ),
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
    (DATASET, ("source",), "mnist", "'source' is 'mnist': input should be 'digits'"),
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
    (
        TABLE,
        ("columns",),
        ["fid", "fidd"],
        "'columns.1' is 'fidd': there is no column 'fidd'; did you mean 'fid'?",
    ),
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
    (
        TABLE,
        (*ROW, "method"),
        ...,
        "'rows.GDD': a row needs one of 'method', 'teacher_steps' and 'external'.",
    ),
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
    (
        TABLE,
        (*ROW, "teacher_steps"),
        3,
        "'rows.GDD': a row needs one of 'method', 'teacher_steps' and 'external'.",
    ),
    (
        TABLE,
        ("rows", "Teacher", "freeze"),
        "conv",
        "'rows.Teacher': a row with 'teacher_steps' trains nothing",
    ),
    (TEACHER, ("published",), "edm", "give either 'published' or 'training'."),
    (TEACHER, ("training",), ..., "give either 'published' or 'training'."),
    (TABLE, ("settings",), ["digits"], "give either 'setting' or 'settings'."),
    (TABLE, ("grid",), {"method": ["gdd"]}, "give either 'rows' or 'grid'."),
]
UNKNOWN_NAMES = [
    (
        "datasets/digits.yaml",
        ("statistics",),
        "edm",
        "'statistics' is 'edm': no such file in sources.yaml; there are: none",
    ),
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
        "'evaluation.extractor' is 'vgg': no such file in features/; there are: clip, digits-classifier",
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
        f"'backbones' is 'vgg': no such file in features/; {NETWORKS}",
    ),
    (SETTING, ("methods", "dmd"), {}, f"'methods.dmd' is 'dmd': no such file in methods/; {METHODS}"),
    (TABLE, ("setting",), "ffhq", "'setting' is 'ffhq': no such file in settings/; there are: digits"),
    (TABLE, (*ROW, "method"), "dmd", f"row 'GDD': 'method' is 'dmd': no such file in methods/; {METHODS}"),
    (
        TABLE,
        (*ROW, "backbones"),
        ["vgg"],
        f"row 'GDD': 'backbones' is 'vgg': no such file in features/; {NETWORKS}",
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
    (
        TABLE,
        ("columns",),
        ["fid", "clip_fid"],
        "'columns' has clip_fid, by which digits is not judged; add it to 'evaluation.metrics' there, or leave",
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
