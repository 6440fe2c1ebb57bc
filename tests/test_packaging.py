"""One list of dependencies, complete; and a folder of executor plugins that Snakemake finds."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from gdd.config.record import read_yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Where the name to import differs from the name to install.
INSTALLED_AS = {"yaml": "pyyaml", "PIL": "pillow", "sklearn": "scikit-learn", "cleanfid": "clean-fid"}
PROBE = """
from dataclasses import dataclass, field
from typing import Optional
from snakemake_interface_executor_plugins.executors.base import AbstractExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase

@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    answer: Optional[int] = field(default=None, metadata={"help": "What the probe is asked.", "type": int})

common_settings = CommonSettings(non_local_exec=True, implies_no_shared_fs=False, job_deploy_sources=False)

class Executor(AbstractExecutor):
    pass
"""
# `site.addsitedir` reads .pth files as Python does for site-packages when it starts.
SNAKEMAKE_HELP = """
import runpy, site, sys
site.addsitedir(sys.argv[1])
sys.argv = ["snakemake", "--help"]
runpy.run_module("snakemake", run_name="__main__")
"""


def imports(file: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            found.add((node.module or "").split(".")[0])
    return found - set(sys.stdlib_module_names)


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return found[0].lower()


DECLARED = {name_of(requirement) for requirement in PROJECT["project"]["dependencies"]}


def python_in(folder: Path, code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter that sees nothing but what is installed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


# Dependencies


def test_every_import_is_declared() -> None:
    missing = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in (ROOT / "gdd").rglob("*.py")
        for name in imports(file) - {"gdd"}
        if INSTALLED_AS.get(name, name.replace("_", "-")).lower() not in DECLARED
    }
    assert not missing


def test_the_library_knows_nothing_of_the_workflow() -> None:
    for file in (ROOT / "gdd").rglob("*.py"):
        found = imports(file)
        assert not any(name.startswith(("snakemake", "submitit")) for name in found), file
        if "report" not in file.parts:
            assert "matplotlib" not in found, file


def test_no_requirement_is_declared_twice() -> None:
    lists = [PROJECT["project"]["dependencies"], PROJECT["project"]["optional-dependencies"]["test"]]
    names = [name_of(requirement) for requirements in lists for requirement in requirements]
    assert len(names) == len(set(names))


def test_pyproject_is_the_one_list() -> None:
    environment = read_yaml(ROOT / "environment.yml")
    assert environment["name"] == "gdd"
    *conda, from_pip = environment["dependencies"]
    assert {name_of(requirement) for requirement in conda} <= {"python", "pip", "git"}
    assert from_pip == {"pip": ["-e .[test]"]}
    python = next(requirement for requirement in conda if name_of(requirement) == "python")
    assert python == f"python{PROJECT['project']['requires-python']}"
    others = ["requirements*.txt", "setup.py", "setup.cfg", "Pipfile", "conda*.y*ml", "*/environment.y*ml"]
    assert [path for pattern in others for path in ROOT.glob(pattern)] == []


def test_the_command_is_what_is_declared() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="gdd")
    assert script.value == PROJECT["project"]["scripts"]["gdd"]
    assert callable(script.load())


# Executor plugins


def test_the_plugins_folder_is_part_of_an_editable_install(tmp_path: Path) -> None:
    assert PROJECT["tool"]["hatch"]["build"]["dev-mode-dirs"] == [".", "workflow/executor"]
    assert (ROOT / "workflow" / "executor").is_dir()  # Python passes over folders that do not exist
    origin = json.loads(importlib.metadata.distribution("gdd").read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        pytest.skip("gdd is not installed with `pip install -e .`")
    checkout = Path(unquote(urlparse(origin["url"]).path))
    path = json.loads(python_in(tmp_path, "import json, sys; print(json.dumps(sys.path))"))
    assert str(checkout / "workflow" / "executor") in path


@pytest.mark.slow
def test_snakemake_finds_a_plugin_in_a_folder_of_a_pth_file(tmp_path: Path) -> None:
    plugin = tmp_path / "executor" / "snakemake_executor_plugin_probe"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(PROBE)
    site = tmp_path / "site-packages"
    site.mkdir()
    assert "--probe-answer" not in python_in(tmp_path, SNAKEMAKE_HELP, str(site))
    (site / "_gdd.pth").write_text(f"{plugin.parent}\n")
    assert "--probe-answer" in python_in(tmp_path, SNAKEMAKE_HELP, str(site))
