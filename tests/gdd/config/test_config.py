"""Folders of configuration: what they add up to, and that a mistake ends in one sentence that says where."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gdd.config.evaluation import Evaluation
from gdd.config.load import SCHEMAS, load_config, write_schemas
from gdd.config.local import Local, load_local
from gdd.config.recipe import Recipe
from gdd.errors import UserError
from gdd.experiments import Experiments

ROOT = Path(__file__).resolve().parents[3]
CONFIG, SETTING, METHOD, LOCAL = "config.yaml", "settings/digits.yaml", "methods/gdd-i.yaml", "local.yaml"
TABLE, TEACHER, DATASET = "ablations/small.yaml", "teachers/digits.yaml", "datasets/digits.yaml"
EXTERNAL = "external/sim.yaml"
SIM = {"title": "Sim", "holds": "generator", "licence": "none", "settings": {"digits": {"where": "a page"}}}
KEYS = ", ".join(sorted(Recipe.model_fields))
POLICIES = "'none', 'conv', 'conv+qkv', 'conv+qkv+skip' or 'norms-only', or a list"
METHODS = "there are: direct, gdd, gdd-i"
NETWORKS = "there are: deit_base_distilled_patch16_224, digits-classifier, digits-judge, digits-random"
ROW, TEACHERS = ("rows", "GDD"), ("rows", "Teacher")
ONE_OF = "a row needs one of 'method', 'teacher_steps' and 'external'."


@pytest.fixture
def project(config_folder: Any) -> Any:
    """The small table with a row of what others published."""
    config_folder.write(EXTERNAL, yaml.safe_dump(SIM))
    config_folder.change(TABLE, ("rows", "Theirs"), {"external": "sim"})
    config_folder.write(LOCAL, "{}\n")
    return config_folder


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


# (file, where in it, what is put there (... removes), what the sentence says besides the file)
UNKNOWN_KEYS = [
    (CONFIG, ("seed",), 0, "unknown key 'seed'; allowed here: seeds, targets."),
    (CONFIG, ("targets", "all", "table"), [], "unknown key 'targets.all.table'; allowed here: page, tables,"),
    (TEACHER, ("architecture", "widht"), 3, "unknown key 'architecture.widht'; allowed here: attn_"),
    (SETTING, ("recipe", "bacth"), 64, f"unknown key 'recipe.bacth'; allowed here: {KEYS}."),
    (SETTING, ("recipe", "r1", "gama"), 64, "unknown key 'recipe.r1.gama'; allowed here: every, gamma."),
    (SETTING, ("methods", "gdd-i", "frezee"), "conv", f"unknown key 'methods.gdd-i.frezee'; allowed here: {KEYS}"),
    (METHOD, ("objective", "loss"), "hinge", "unknown key 'objective.loss'; allowed here: distance, "),
    (TABLE, (*ROW, "lr"), {"gen": 1.0}, "unknown key 'rows.GDD.lr.gen'; allowed here: discriminator, gen"),
    (TABLE, ("rows", "lr"), {"gen": 1.0}, "unknown key 'rows.lr.gen'; allowed here: adam, "),
    (LOCAL, ("partitoin",), "gpu", "unknown key 'partitoin'; allowed here: "),
]  # fmt: skip
WRONG_VALUES = [
    (CONFIG, ("seeds",), [0, -1], "'seeds.1' is -1: input should be greater than or equal to 0."),
    (CONFIG, ("seeds",), [], "'seeds' is []: it needs at least one entry."),
    (CONFIG, ("targets", "all", "page"), "A page", "'targets.all.page' is 'A page': string should match"),
    (DATASET, ("source",), "mnist", "'source' is 'mnist': input should be 'digits'"),
    (TEACHER, ("architecture", "img_resolution"), 9, "'architecture': img_resolution 9 cannot be halved 1 times"),
    (SETTING, ("recipe", "batch"), None, "'recipe.batch' is empty: give it a value or leave the key out."),
    (SETTING, ("recipe", "lr"), 1e-3, "'recipe.lr' is 0.001: input should be keys and values."),
    (SETTING, ("methods", "gdd-i", "freeze"), "cnov", f"'methods.gdd-i.freeze' is 'cnov': input should be {POLICIES}."),
    (SETTING, ("evaluation", "metrics"), ["kid"], "'metrics' needs 'fid'"),
    (SETTING, ("evaluation", "metrics"), ["fid"], "'pixels' adds to the usual metrics"),
    (METHOD, ("freeze",), ["a", 1], "'freeze.1' is 1: input should be a valid string."),
    (METHOD, ("colour",), "red", "'colour' is 'red': string should match pattern '^#[0-9a-f]{6}$'."),
    (TABLE, ROW, None, "'rows.GDD' is empty: input should be keys and values."),
    (TABLE, ROW, "gdd", "'rows.GDD' is 'gdd': input should be keys and values."),
    (TABLE, ("columns",), ["fid", "fidd"], "'columns.1' is 'fidd': "),
    (EXTERNAL, ("settings",), {}, "it needs at least one entry"),
    (EXTERNAL, ("evaluations",), 1, "'evaluations' belongs to images"),
    (LOCAL, ("nodes",), 2, "'nodes' is 2, so 'gpus' has to be a multiple of it"),
    (LOCAL, ("card",), "12 GB", "'card' is '12 GB'"),
    (LOCAL, ("mirrors",), {"https://x/": "ftp://y/"}, "a mirror is an http(s) URL, file: or a path"),
    (LOCAL, ("scratch",), "disk", "'scratch' is 'disk': give an absolute path"),
]  # fmt: skip
MISSING_KEYS = [
    (CONFIG, ("seeds",), ..., "the key 'seeds' is missing."),
    (TEACHER, ("training", "ema", "half_life"), ..., "the key 'training.ema.half_life' is missing."),
    (SETTING, ("recipe", "lr", "generator"), ..., "the key 'lr.generator' is missing."),
    (METHOD, ("objective",), ..., "the key 'objective' is missing."),
    (TABLE, (*ROW, "method"), ..., f"'rows.GDD': {ONE_OF}"),
    (TABLE, ("setting",), ..., "give either 'setting' or 'settings'."),
    (TABLE, ("rows",), ..., "give either 'rows' or 'grid'."),
]
IMPOSSIBLE = [
    (SETTING, ("recipe", "batch"), 96, "'batch' (96) cannot be divided into groups of 'heads.norm_group' (64)"),
    (SETTING, ("recipe", "backbones"), [], "a distributional objective needs at least one network in"),
    (SETTING, ("methods", "gdd-i"), {"batch": 96}, "'batch' (96) cannot be divided into groups of"),
    (METHOD, ("objective",), {}, "'objective': an objective needs 'distributional' (softplus, hinge), 'instance' ("),
    (TABLE, (*ROW, "batch"), 96, "row 'GDD': 'batch' (96) cannot be divided into groups of"),
    (TABLE, (*ROW, "images"), 64, "row 'GDD': 'snapshot_every' ("),
    (TABLE, (*ROW, "teacher_steps"), 3, f"'rows.GDD': {ONE_OF}"),
    (TABLE, (*TEACHERS, "freeze"), "conv", "'rows.Teacher': a row with 'teacher_steps' trains nothing"),
    (TABLE, ("rows", "Theirs"), {"external": "sim", "batch": 8}, "'batch' cannot stand"),
    (TABLE, ("settings",), ["digits"], "give either 'setting' or 'settings'."),
    (TABLE, ("grid",), {"method": ["gdd"]}, "give either 'rows' or 'grid'."),
    (TEACHER, ("published",), "edm", "give either 'published' or 'training'."),
]  # fmt: skip
UNKNOWN_NAMES = [
    (DATASET, ("statistics",), "edm", "'statistics' is 'edm': no such file in sources.yaml; there are: none"),
    (CONFIG, ("targets", "all", "tables"), ["smal"], "'targets.all.tables' is 'smal': no such file in ablations/;"),
    ("features/digits-judge.yaml", ("dataset",), "digit", "'dataset' is 'digit': no such file in datasets/;"),
    (SETTING, ("teacher",), "edm", "'teacher' is 'edm': no such file in teachers/; there are: digits"),
    (SETTING, ("evaluation", "extractor"), "vgg", "'evaluation.extractor' is 'vgg': no such file in features/; there"),
    (SETTING, ("evaluation", "dataset"), "x", "'evaluation.dataset' is 'x': no such file in datasets/; there are: digits"),
    (SETTING, ("recipe", "backbones"), ["vgg"], f"'backbones' is 'vgg': no such file in features/; {NETWORKS}"),
    (SETTING, ("methods", "dmd"), {}, f"'methods.dmd' is 'dmd': no such file in methods/; {METHODS}"),
    (TABLE, ("setting",), "ffhq", "'setting' is 'ffhq': no such file in settings/; there are: digits"),
    (TABLE, (*ROW, "method"), "dmd", f"row 'GDD': 'method' is 'dmd': no such file in methods/; {METHODS}"),
    (TABLE, (*ROW, "teacher"), "x", "row 'GDD': 'teacher' is 'x': no such file in teachers/; there are: digits"),
    (TABLE, (*TEACHERS, "teacher"), "x", "row 'Teacher': 'teacher' is 'x': no such file in teachers/;"),
    (TABLE, ("rows", "Theirs"), {"external": "sin"}, "no such file in external/"),
    (TABLE, ("columns",), ["fid", "clip_fid"], "'columns' has clip_fid, which digits does not compute; add it to"),
    (EXTERNAL, ("settings",), {"digit": {}}, "'settings' is 'digit': no such file in settings/"),
    (EXTERNAL, ("settings", "digits", "published"), "x", "no such file in sources.yaml"),
    (LOCAL, ("external",), {"sim": {"digit": "/x"}}, "has no such setting; there are: digits"),
    (LOCAL, ("external",), {"sin": {"digits": "/x"}}, "no such file in external/"),
    (LOCAL, ("raw_data",), {"face": "/x"}, "'raw_data.face': no data set is made from raw data of that name"),
]  # fmt: skip
MISTAKES = [*UNKNOWN_KEYS, *WRONG_VALUES, *MISSING_KEYS, *IMPOSSIBLE, *UNKNOWN_NAMES]


@pytest.mark.parametrize(("file", "keys", "value", "sentence"), MISTAKES)
def test_a_mistake_is_one_sentence(
    project: Any, file: str, keys: tuple[str, ...], value: Any, sentence: str
) -> None:
    project.change(file, keys, value)
    found = refusal(project.load)
    assert str(project.path / file) in found
    assert sentence in sorted_names(found)
    assert found.count(str(project.path)) <= 2  # a setting's file and a method's


def test_the_folder_the_mistakes_are_made_in_is_right(project: Any) -> None:
    experiments = project.load()
    assert [row.title for row in experiments.tables["small"]] == ["GDD", "GDD-I", "Teacher", "Theirs"]
    (theirs,) = (row for row in experiments.tables["small"] if row.external)
    assert (theirs.runs, theirs.metrics()) == ((), [Path("results/external/digits/sim/metrics.json")])


def test_two_rows_of_one_name(config_folder: Any) -> None:
    text = (config_folder.path / TABLE).read_text().replace("  GDD-I:", "  GDD:")
    config_folder.write(TABLE, text)
    assert refusal(config_folder.load) == f"{config_folder.path / TABLE} line 5: the key 'GDD' stands twice."


def test_targets_that_get_in_each_others_way(config_folder: Any) -> None:
    target = {"title": "T", "page": "index", "tables": ["small"]}
    config_folder.change(CONFIG, ("targets", "demo"), target)
    assert "'demo' and 'all' have the same page; rename one." in refusal(config_folder.load)
    config_folder.change(CONFIG, ("targets",), {"small": target})
    assert "the target 'small' has the name of an ablation; rename one." in refusal(config_folder.load)


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
    (config_folder.path / CONFIG).unlink()
    assert refusal(config_folder.load) == f"{config_folder.path / CONFIG} does not exist."


def test_a_users_own_folder_adds_a_table(config_folder: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    table = (config_folder.path / TABLE).read_text()
    (mine / "ablations").mkdir(parents=True)
    own = mine / "ablations" / "batches.yaml"
    own.write_text(table.replace("GDD: {method: gdd}", "GDD: {method: gdd-x}"))
    assert refusal(lambda: config_folder.load(mine)).startswith(f"{own}, row 'GDD': 'method' is 'gdd-x': ")
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


def test_two_sources_cannot_share_a_place(config_folder: Any, tmp_path: Path) -> None:
    source = {
        "use": "x",
        "url": "https://x.org/x",
        "path": "x",
        "bytes": None,
        "checksum": None,
        "licence": "",
    }
    config_folder.write("sources.yaml", yaml.safe_dump({"sources": {"tiny": source}}))
    extra = tmp_path / "mine"
    (extra / "ablations").mkdir(parents=True)
    (extra / "sources.yaml").write_text(yaml.safe_dump({"sources": {"other": source}}))
    assert "'other' has the path of 'tiny'" in refusal(lambda: config_folder.load(extra))


@pytest.mark.parametrize("name", ["other.yml", "my table.yaml", "gdd.batch-8.yaml", "-x.yaml", "ä.yaml"])
def test_file_names_that_would_be_overlooked_or_mistaken(config_folder: Any, name: str) -> None:
    config_folder.write(f"ablations/{name}", (config_folder.path / TABLE).read_text())
    sentence = refusal(config_folder.load)
    assert sentence.startswith(f"{config_folder.path}/ablations/{name}: the file's name has to be letters")


# --- this machine ---------------------------------------------------------------------------------------


def test_the_example_of_local_facts(tmp_path: Path) -> None:
    assert load_local(tmp_path) == Local()
    example = (ROOT / "config" / "local.example.yaml").read_text()
    (tmp_path / "local.yaml").write_text(example)
    assert load_local(tmp_path) == Local()
    uncommented, count = re.subn(r"^# (?=[a-z0-9_]+: )", "", example, flags=re.MULTILINE)
    (tmp_path / "local.yaml").write_text(uncommented)
    assert load_local(tmp_path).model_fields_set == set(Local.model_fields)
    assert count == len(Local.model_fields)


def test_scratch_takes_variables_and_no_relative_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NODE_DISK", str(tmp_path))
    assert Local(scratch="$NODE_DISK/x").scratch_folder() == tmp_path / "x"
    assert Local(scratch="~/x").scratch_folder() == Path.home() / "x"
    monkeypatch.delenv("NODE_DISK")
    with pytest.raises(UserError, match="give an absolute path"):
        Local(scratch="$NODE_DISK/x").scratch_folder()


def test_a_card_says_what_fits_and_a_core_does_not(config_folder: Any) -> None:
    rate = {"training": 1, "generating": 1, "judging": 1, "known": "estimated", "source": "here"}
    config_folder.change(SETTING, ("resources", "rates"), {"24 GB": rate})
    assert "'at_once' belongs to every card" in refusal(config_folder.load)


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


def test_the_usual_metrics() -> None:
    evaluation = Evaluation(extractor="judge", pixels=True, samples=3)
    assert evaluation.wanted_on_curves() == ("fid", "pixel_fid")
    assert evaluation.extractors() == ["judge", "pixels"]
    listed = Evaluation(extractor="inception", samples=3, metrics=("fid", "clip_fid", "clean_fid", "kid"))
    assert listed.wanted_on_curves() == ("fid",)
    assert listed.extractors() == ["inception", "clip", "inception-clean"]


def test_schemas_are_written_one_a_kind_of_file(tmp_path: Path) -> None:
    written = write_schemas(tmp_path / "schema")
    assert [path.stem for path in written] == list(SCHEMAS)
    assert json.loads(written[0].read_text())["additionalProperties"] is False
