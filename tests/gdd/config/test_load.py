"""Folders of configuration, the user's own among them, and the facts about this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gdd.config.load import SCHEMAS, load_config, parse_record, write_schemas
from gdd.config.local import Local, load_local
from gdd.config.recipe import Sampler
from gdd.config.records import Dataset
from gdd.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
CONFIG, TABLE, DATASET = "config.yaml", "ablations/small.yaml", "datasets/digits.yaml"


def refusal(load: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        load()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


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
    uncommented, count = re.subn(r"^# (?=[a-z0-9_]+: )", "", example, flags=re.MULTILINE)
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
