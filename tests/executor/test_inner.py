"""Snakemake on the node: the same, started sooner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SNAKEFILE = """
rule all:
    input: "shell", "run"

rule by_shell:
    output: "shell"
    shell: "echo done > {output}"

rule by_run:
    output: "run"
    run:
        import sys
        with open(output[0], "w") as file:
            print("snakemake.report" in sys.modules, file=file)
"""


@pytest.mark.slow
def test_rules_run_and_reports_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow" / "executor")}
    command = [sys.executable, "-m", "snakemake_executor_plugin_submitit.inner"]
    command += ["--cores", "1", "--scheduler", "greedy", "--force-use-threads"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shell").read_text() == "done\n"
    assert (tmp_path / "run").read_text() == "False\n"  # which halves the work of starting
