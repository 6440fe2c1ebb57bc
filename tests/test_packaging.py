"""One list of dependencies, complete and without idlers; and a folder of executor plugins that Snakemake finds."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from gdd.config.record import read_yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Where the name to import differs from the name to install.
INSTALLED_AS = {
    "yaml": "pyyaml",
    "xdist": "pytest-xdist",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "cleanfid": "clean-fid",
}
TOOLS = {"import-linter", "mypy", "ruff", "snakefmt"}
TOOLS |= {"pandas-stubs", "types-psutil", "types-pyyaml"}
OWN = {"gdd", "workflow", "snakemake_executor_plugin_submitit"}


def imports(*folders: str) -> set[str]:
    """Return what the Python and Snakemake files below some folders import, by the name to install."""
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: imports are absolute"
                found.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Constant) and "import_module(" in str(node.value):
                found |= set(re.findall(r'import_module\("(\w+)', str(node.value)))
    return {
        INSTALLED_AS.get(name, name.replace("_", "-")).lower()
        for name in found - set(sys.stdlib_module_names) - OWN
    }


def names(requirements: Iterable[str]) -> list[str]:
    return [re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower() for requirement in requirements]  # type: ignore[index]


DECLARED = names(PROJECT["project"]["dependencies"])
FOR_TESTS = names(PROJECT["project"]["optional-dependencies"]["test"])


@pytest.mark.slow
def test_every_import_is_declared_and_every_dependency_imported() -> None:
    used, others = imports("gdd", "workflow"), imports("tests", "benchmarks")
    # Interfaces of Snakemake's come with Snakemake, and Triton with PyTorch for GPUs.
    given = {name for name in used | others if name.startswith("snakemake-interface")} | {"triton"}
    assert used - given == set(DECLARED)
    local = {
        file.stem.replace("_", "-")
        for folder in ("tests", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
    }
    assert others - given - set(DECLARED) - set(FOR_TESTS) - local == set()
    assert set(FOR_TESTS) - others == TOOLS


def test_the_executor_plugin_can_be_installed_alone() -> None:
    """By a pyproject.toml of its own, which asks for what it imports, in the same versions."""
    alone = tomllib.loads((ROOT / "workflow" / "executor" / "pyproject.toml").read_text())["project"]
    used = {name for name in imports("workflow/executor") if not name.startswith("snakemake-interface")}
    assert used | {"snakemake"} == set(names(alone["dependencies"]))
    assert set(alone["dependencies"]) <= set(PROJECT["project"]["dependencies"])


def test_pyproject_is_the_one_list() -> None:
    assert len(DECLARED + FOR_TESTS) == len({*DECLARED, *FOR_TESTS})
    environment = read_yaml(ROOT / "environment.yml")
    assert environment["name"] == "gdd"
    *conda, from_pip = environment["dependencies"]
    assert set(names(conda)) <= {"python", "pip", "git"}
    assert from_pip == {"pip": ["-e .[test]"]}
    assert f"python{PROJECT['project']['requires-python']}" in conda


def test_the_command_is_what_is_declared() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="gdd")
    assert script.value == PROJECT["project"]["scripts"]["gdd"]
    assert callable(script.load())


def test_the_plugins_folder_is_part_of_an_editable_install(tmp_path: Path) -> None:
    origin = json.loads(importlib.metadata.distribution("gdd").read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        pytest.skip("gdd is not installed with `pip install -e .`")
    checkout = Path(unquote(urlparse(origin["url"]).path))
    code = "import json, sys; print(json.dumps(sys.path))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    path = json.loads(done.stdout)
    assert {str(checkout), str(checkout / "workflow" / "executor")} <= set(path)
