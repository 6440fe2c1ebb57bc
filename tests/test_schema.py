"""The JSON schemas that editors read: as new as the records, and true of every file they describe."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gdd.config.config import KINDS, SCHEMAS, write_schemas
from gdd.config.record import read_yaml

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "config"
SCHEMA = CONFIG / "schema"
FILES = sorted(path for path in CONFIG.glob("**/*.yaml") if path.name != "local.yaml")


def kind_of(file: Path) -> str:
    return file.parent.name if file.parent != CONFIG else file.name.split(".")[0]


def test_the_schemas_are_those_of_the_records(tmp_path: Path) -> None:
    write_schemas(tmp_path)
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    stored = {path.name: path.read_text() for path in SCHEMA.iterdir()}
    different = [name for name in {*fresh, *stored} if fresh.get(name) != stored.get(name)]
    assert not different, f"run `gdd schema`: {different} are older than the records"


def test_every_folder_of_config_has_a_schema() -> None:
    folders = {path.name for path in CONFIG.iterdir() if path.is_dir()}
    assert folders == {*KINDS, "schema"}
    assert {path.stem for path in SCHEMA.iterdir()} == set(SCHEMAS)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_files_are_what_the_schema_that_they_name_says(kind: str) -> None:
    schema = json.loads((SCHEMA / f"{kind}.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for file in [file for file in FILES if kind_of(file) == kind]:
        assert [error.message for error in validator.iter_errors(read_yaml(file) or {})] == [], file
        if file.name != "local.example.yaml":
            found = re.match(r"# yaml-language-server: \$schema=(\S+)\n", file.read_text())
            assert found, f"the first line of {file} names no schema"
            assert (file.parent / found[1]).resolve() == SCHEMA / f"{kind}.json"


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        ("settings/digits.yaml", ("recipe", "bacth"), 3),
        ("settings/digits.yaml", ("recipe", "batch"), "many"),
        ("settings/digits.yaml", ("recipe", "freeze"), "cnov"),
        ("methods/gdd.yaml", ("objective", "distributional"), "wgan"),
        ("ablations/demo-objectives.yaml", ("columns",), ["fidd"]),
        ("ablations/demo-objectives.yaml", ("rows", "X"), {"methd": "gdd"}),
        ("config.yaml", ("seeds",), [-1]),
    ],
)
def test_an_editor_sees_the_mistake(file: str, keys: tuple[str, ...], value: Any) -> None:
    data = inner = copy.deepcopy(read_yaml(CONFIG / file))
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json.loads((SCHEMA / f"{kind_of(CONFIG / file)}.json").read_text()))
