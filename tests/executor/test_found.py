"""Snakemake finds the plugin, from a checkout and from a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from snakemake_executor_plugin_submitit.settings import ExecutorSettings

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "workflow" / "profiles" / "slurm" / "config.yaml"


def snakemake(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow" / "executor")}
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
def test_snakemakes_help_lists_the_settings() -> None:
    said = snakemake("--help")
    for field in fields(ExecutorSettings):
        assert f"--submitit-{field.name.replace('_', '-')}" in said


def test_no_setting_is_a_bool_that_is_true_by_default() -> None:
    """Snakemake's command line cannot hold one."""
    assert not [field.name for field in fields(ExecutorSettings) if field.default is True]


def test_the_wheel_holds_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert "workflow/executor/snakemake_executor_plugin_submitit" in packages


def test_the_profile_is_found_by_its_name() -> None:
    """Snakemake looks for a profile in the working directory, not in workflow/profiles."""
    assert (ROOT / "slurm").is_symlink()
    assert (ROOT / "slurm" / "config.yaml").samefile(PROFILE)
    assert yaml.safe_load(PROFILE.read_text())["executor"] == "submitit"


def test_every_key_of_the_profile_is_explained() -> None:
    lines = PROFILE.read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if line and line[0] not in "# "]
    assert keys
    assert all(lines[number - 1].startswith("#") for number in keys)


@pytest.mark.slow
def test_a_node_imports_little() -> None:
    """What every job pays for: no NumPy, none of Snakemake."""
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "import snakemake_executor_plugin_submitit.node\n"
        "print(*sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow" / "executor")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert not {"snakemake", "snakemake_interface_common", "pandas", "torch"} & set(done.stdout.split())
