"""Everything that touches what Snakemake and submitit do not promise to keep, and why.

Seen in Snakemake 9.10 to 9.27 and submitit 1.5.3 and 1.5.4; tests/executor/test_private.py fails where one is
gone.
"""

from __future__ import annotations

import gc
import hashlib
import os
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
MODULE = "snakemake_executor_plugin_submitit"


def start_snakemake() -> None:
    """Be `python -m snakemake`, which runs one job on its node, with half the work of starting.

    That work is nearly all this process does: garbage collection while modules are loaded (0.6 s of a
    processor) and the plugins for reports with all that they import (0.3 s), which one job has no use for.
    """
    gc.disable()
    from snakemake_interface_executor_plugins.executors.base import AbstractExecutor
    from snakemake_interface_report_plugins.registry import ReportPluginRegistry

    # Snakemake loads this plugin, too; here it submits nothing and needs none of what that imports (0.2 s).
    vars(sys.modules[MODULE])["Executor"] = AbstractExecutor
    ReportPluginRegistry.collect_plugins = lambda self: setattr(self, "plugins", {})
    from snakemake.cli import main

    record_what_is_made()
    leave_retries_to_the_workflow()
    gc.freeze()
    gc.enable()
    main(sys.argv[1:])


def record_what_is_made() -> None:
    """Let the node, too, record by which code and parameters an output was made.

    Otherwise the workflow's main process does that when it hears of a job's end; if it was killed meanwhile,
    nobody does, and later changes of the rule go unnoticed. Snakemake does it on the node only with
    --immediate-submit, which changes more than this.
    """
    from snakemake import persistence

    kind: Any = getattr(persistence, "PersistenceBase", None) or persistence.Persistence  # as in 9.10
    finished = kind.finished

    async def recorded(self: Any, job: Any) -> None:
        settings = self.dag.workflow.remote_execution_settings
        settings.immediate_submit = True
        try:
            await finished(self, job)
        finally:
            settings.immediate_submit = False

    kind.finished = recorded


def leave_retries_to_the_workflow() -> None:
    """Run a rule with `retries` once on a node: Snakemake passes --retries 0, which such a rule overrides."""
    from snakemake.rules import Rule

    Rule.restart_times = property(lambda _: 0, lambda *_: None)


def targets_of(workflow: Any) -> str:
    """Return what tells this workflow's jobs from those of others in the same folder: Snakefile and targets.

    The interface for executors shows neither targets nor the settings around them.
    """
    dag = workflow.dag_settings
    return repr((str(workflow.main_snakefile), sorted(map(str, dag.targets)), sorted(map(str, dag.until))))


def shown_to_plugins(workflow: Any) -> bool:
    """Return whether a logger plugin waits for the events from which Snakemake's long messages are made."""
    return bool(workflow.output_settings.log_handler_settings)


def wanted_keys(workflow: Any) -> tuple[set[str], set[str]] | None:
    """Return the keys of all jobs of the workflow and of those that have to run.

    None if there are checkpoints, after which there may be more.
    """
    if any(rule.is_checkpoint for rule in workflow.rules):
        return None
    dag = workflow.dag
    return {key(job) for job in dag.jobs}, {key(job) for job in dag.needrun_jobs()}


def jobs_elsewhere(workflow: Any) -> int:
    """Return how many jobs, as far as is known now, will go to the cluster."""
    return sum(not job.is_local for job in workflow.dag.needrun_jobs())


def single_jobs(job: Any) -> list[Any]:
    """Return the jobs of a group in a fixed order, or the job alone."""
    return sorted(job.jobs, key=_identity) if job.is_group() else [job]


def label(job: Any) -> str:
    parts = single_jobs(job)
    words = [str(part.rule.name) for part in parts]
    words += [str(value) for value in parts[0].wildcards_dict.values()]
    return re.sub(r"[^\x20-\x7e]", "?", " ".join(dict.fromkeys(words)))


def key(job: Any) -> str:
    """Return what identifies a single job across runs of Snakemake: its rule with its outputs."""
    return digest([_identity(job)])


def work(job: Any) -> str:
    """Return a hash of what a single job does: code, parameters and inputs.

    The interface shows no code of a job: `rule` and `shellcmd` are Snakemake's own.
    """
    rule, parameters = job.rule, job.params
    named = dict(parameters.items()) if hasattr(parameters, "items") else parameters
    parts = [_identity(job), job.shellcmd, rule.script, rule.notebook, rule.wrapper, rule.cwl]
    parts += [getattr(rule, "run_func_src", None), named, list(parameters)]  # the first not yet in 9.10
    script = rule.script or rule.notebook or ""
    for place in (Path(str(script)), Path(str(rule.basedir)) / str(script)):
        if place.is_file():
            parts.append(place.read_bytes())
    for file in job.input:
        parts.append((str(file), None if getattr(file, "is_ancient", False) else _state(Path(file))))
    return digest(_ADDRESS.sub("", repr(part)) for part in parts)


def digest(lines: Iterable[str]) -> str:
    """Return a short hash of text."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:24]


def _identity(job: Any) -> str:
    outputs = [str(file) for file in job.output]
    return repr((job.rule.name, outputs or sorted(job.wildcards_dict.items())))


def _state(file: Path) -> tuple[int, ...]:
    """Return what changes when a file is written again: another input is other work."""
    try:
        stat = file.stat()
    except OSError:
        return ()
    return (stat.st_mtime_ns,) if file.is_dir() else (stat.st_mtime_ns, stat.st_size)


def batch_script(folder: Path, arguments: str, jobs: int, options: dict[str, Any]) -> str:
    """Return the text of submitit's batch file.

    Its `submit` names an array's pickles only after sbatch (a job whose submitter died must find its own) and
    keeps sbatch's words to itself.
    """
    from submitit.slurm.slurm import SlurmExecutor

    python = f"exec {shlex.quote(sys.executable)}"
    executor = SlurmExecutor(folder, python=python)
    executor.update_parameters(
        use_srun=False, stderr_to_stdout=True, wckey=None, time=None, additional_parameters=options
    )
    if jobs > 1:
        executor.parameters.update(map_count=jobs, array_parallelism=jobs)
    return str(executor._make_submission_file_text(f"{python} -u -m {MODULE}.node {arguments}", ""))


def local_executor(folder: Path) -> Any:
    """Return submitit's executor of local processes, with this plugin's command and no pause between jobs.

    submitit gives every job the first GPUs; which are free is for others to say.
    """
    from submitit.local.local import LocalExecutor

    class Executor(LocalExecutor):
        @property
        def _submitit_command_str(self) -> str:
            name = "CUDA_VISIBLE_DEVICES"
            gpus = f"{name}={shlex.quote(os.environ[name])}" if name in os.environ else f"-u {name}"
            return f"env {gpus} {self.python} -u -m {MODULE}.node {shlex.quote(str(self.folder))}"

    executor = Executor(folder)
    executor._throttling = 0
    return executor


if __name__ == "__main__":
    start_snakemake()
