"""What the plugin uses of Snakemake and submitit without their having promised it is still there."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_plugin_submitit import private

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
        import gc, sys
        with open(output[0], "w") as file:
            print("snakemake.report" in sys.modules, file=file)
"""


@pytest.mark.slow
def test_rules_run_and_reports_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow" / "executor")}
    command = [sys.executable, "-m", private.__name__, "--cores", "1", "--scheduler", "greedy"]
    command += ["--force-use-threads"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shell").read_text() == "done\n"
    assert (tmp_path / "run").read_text() == "False\n"  # which halves the work of starting


@pytest.mark.slow
def test_a_node_records_by_what_an_output_was_made(tmp_path: Path) -> None:
    """The workflow's main process may be dead by then: what changes later shall be noticed all the same."""
    rule = 'rule a:\n    output: "out"\n    params: rate={}\n    shell: "echo {{params.rate}} > {{output}}"\n'
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow" / "executor")}

    def snakemake(module: str, *arguments: str) -> str:
        command = [sys.executable, "-m", module, "--cores", "1", "--scheduler", "greedy", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout + done.stderr

    (tmp_path / "Snakefile").write_text(rule.format(1))
    snakemake(private.__name__, "--mode", "remote", "--force-use-threads", "--target-jobs", "a:")
    assert (tmp_path / "out").read_text() == "1\n"
    assert "Nothing to be done" in snakemake("snakemake", "--dry-run")
    (tmp_path / "Snakefile").write_text(rule.format(2))
    assert "Params have changed" in snakemake("snakemake", "--dry-run")


@pytest.mark.slow
def test_retries_are_the_workflows(tmp_path: Path) -> None:
    """On the node that just failed, with the resources that SLURM gave, a second try would be in vain."""
    (tmp_path / "Snakefile").write_text(
        'rule a:\n    output: "out"\n    retries: 2\n    shell: "echo x >> tries; exit 1"\n'
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow" / "executor")}
    command = [sys.executable, "-m", private.__name__, "--cores", "1", "--scheduler", "greedy"]
    subprocess.run([*command, "--retries", "0"], cwd=tmp_path, env=environment, check=False)
    assert (tmp_path / "tries").read_text() == "x\n"


def test_snakemakes_registry_of_reports_collects_by_a_method() -> None:
    from snakemake_interface_report_plugins.registry import ReportPluginRegistry

    assert inspect.isfunction(ReportPluginRegistry.collect_plugins)


def test_snakemakes_command_on_a_node_can_be_told_apart() -> None:
    from snakemake_interface_executor_plugins.executors.real import RealExecutor

    assert '"-m snakemake"' in inspect.getsource(RealExecutor.format_job_exec)


def test_snakemakes_executor_starts_its_thread_first() -> None:
    """Which is why `ready` is waited for; without that the thread would run into what is not there yet."""
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    source = inspect.getsource(RemoteExecutor.__init__)
    assert source.index("wait_thread.start()") < source.index("self.__post_init__()")


@pytest.mark.slow
def test_snakemakes_workflow_has_what_is_read_of_it() -> None:
    import snakemake.cli  # noqa: F401  # which has to be the first
    from snakemake.dag import DAG
    from snakemake.jobs import Job
    from snakemake.rules import Rule
    from snakemake.settings.types import DAGSettings, OutputSettings
    from snakemake.workflow import Workflow

    assert {"targets", "until"} <= set(DAGSettings.__dataclass_fields__)
    assert "log_handler_settings" in OutputSettings.__dataclass_fields__
    assert {"dag_settings", "output_settings"} <= set(Workflow.__dataclass_fields__)
    assert isinstance(DAG.jobs, property)
    assert inspect.isfunction(DAG.needrun_jobs)
    source = inspect.getsource(Rule.__init__)
    for name in ("script", "notebook", "wrapper", "cwl", "basedir", "is_checkpoint"):
        assert f"self.{name} = " in source or hasattr(Rule, name), name
    for name in ("shellcmd", "params", "wildcards_dict", "output", "input", "is_group", "is_local"):
        assert hasattr(Job, name) or f"self.{name} = " in inspect.getsource(Job.__init__), name


def test_submitits_batch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "srun").write_text("")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    options: dict[str, Any] = {"job_name": "a b", "requeue": True}
    text = private.batch_script(tmp_path, "FOLDER TOKEN", 3, options)
    assert "#SBATCH --array=0-2%3" in text
    assert "--job-name='a b'" in text
    assert "wckey" not in text
    assert "--time" not in text
    assert (
        text.strip().splitlines()[-1]
        == f"exec {sys.executable} -u -m snakemake_executor_plugin_submitit.node FOLDER TOKEN"
    )


@pytest.mark.slow
def test_submitits_local_executor_runs_the_plugins_command(tmp_path: Path) -> None:
    from snakemake_executor_plugin_submitit.node import Command

    executor = private.local_executor(tmp_path)
    job = executor.submit(Command("echo hello", "train"))
    assert job.result()["seconds"] > 0
    assert "hello" in job.stdout()
