"""Which small files below `results/` the report is made of, and how one is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gdd.errors import UserError
from gdd.experiments import Run, TableRow, external_folder
from gdd.files import read_json


def require(results: Path, relative: str, target: str) -> Path:
    """Return `results/relative`.

    Raises:
        UserError: the file does not exist; names the Snakemake target that makes it.
    """
    path = results / relative
    if not path.is_file():
        raise UserError(f"{path} does not exist; make it with `snakemake --cores 2 {target}`.")
    return path


def read_input(results: Path, relative: str, target: str) -> dict[str, Any]:
    """Read the JSON object `results/relative`.

    Raises:
        UserError: the file is missing (names the target that makes it) or no JSON object.
    """
    path = require(results, relative, target)
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object; delete it and run `snakemake --cores 2 {target}`.")
    return data


def read_run(results: Path, run: Run, target: str) -> dict[str, Any]:
    """Read the `run.json` of a run.

    Raises:
        UserError: it is missing, or was trained with another recipe than the configuration's.
    """
    relative = f"{run.folder}/run.json"
    data = read_input(results, relative, target)
    if data.get("recipe") != run.recipe.model_dump(mode="json"):
        raise UserError(
            f"{results / relative} was trained with another recipe than the configuration now gives; "
            f"delete it and run `snakemake --cores 2 {target}`."
        )
    return data


def sample_file(row: TableRow) -> str:
    """Return the images from fixed latents that show a row, below `results/`; the first run's."""
    if row.teacher_steps is not None:
        return f"teachers/{row.teachers[0]}/samples/{row.setting}-steps{row.teacher_steps}.npz"
    if row.external is not None:
        return f"{external_folder(row.external, row.setting)}/samples.npz"
    run = row.runs[0]
    return f"{run.folder}/samples/{run.recipe.images:09d}.npz"


def table_file(name: str, ending: str) -> str:
    """Return where a table lies, below `results/`."""
    return f"tables/{name}.{ending}"


def choice_file(name: str, ending: str) -> str:
    """Return where what a table chooses lies, below `results/`."""
    return f"tables/{name}-choice.{ending}"


def figure_stem(name: str, kind: str) -> str:
    """Return where a table's figure lies, below `results/`, without the ending."""
    return f"figures/{name}-{kind}"
