"""Runs of the toy trainer, sent to a cluster by Snakemake, and what has to be true of them afterwards."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from daemons import wait_for
from slurm_cluster import SlurmCluster

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "tests" / "slurm" / "toy"

TIMED_OUT = "Batch job submission failed: Socket timed out on send/recv operation"
BROKEN_SBATCH = """#!/bin/sh
left=$(cat {folder}/left)
if [ $left -gt 0 ]; then
  echo $((left - 1)) > {folder}/left
  cat {folder}/words >&2
  exit 1
fi
exec {sbatch} "$@"
"""


def python_environment() -> dict[str, str]:
    """The environment in which this interpreter's programs and this checkout's packages are found."""
    packages = [str(ROOT), str(ROOT / "workflow" / "executor"), os.environ.get("PYTHONPATH")]
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return {"PATH": os.pathsep.join(path), "PYTHONPATH": os.pathsep.join(filter(None, packages))}


@dataclass(frozen=True)
class Sitting:
    """What one process did without a break."""

    job: str
    restart: str
    node: str
    steps: list[int]
    began: float
    ended: float


@dataclass
class Toy:
    """A folder with a workflow of toy runs.

    Args:
        runs: per name, options of the trainer (or another command) and resources.
    """

    folder: Path
    cluster: SlurmCluster
    runs: dict[str, dict[str, Any]]
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.environment = self.cluster.environment | python_environment() | self.environment
        self.write_runs()

    def write_runs(self) -> None:
        """Write `runs` down for the workflow."""
        facts = {"trainer": f"{sys.executable} {TOY / 'trainer.py'}", "runs": self.runs}
        (self.folder / "runs.yaml").write_text(yaml.safe_dump(facts))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Snakemake; what it prints goes to snakemake.log."""
        command = [str(Path(sys.executable).with_name("snakemake"))]
        command += ["--snakefile", str(TOY / "Snakefile"), "--directory", str(self.folder)]
        command += ["--executor", "submitit", "--submitit-cluster", "slurm", "--jobs", "100"]
        command += ["--submitit-stop-seconds", "20", "--submitit-stop-variables", "GDD_STOP_FILE"]
        command += ["--seconds-between-status-checks", "1", "--latency-wait", "30", "--rerun-incomplete"]
        command += ["--keep-going", *self.arguments, *arguments]
        with (self.folder / "snakemake.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def kill(self) -> None:
        """Kill every Snakemake that still runs, without a chance to say anything."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def finish(self, process: subprocess.Popen[bytes], status: int = 0, seconds: float = 300) -> str:
        """Wait until Snakemake has ended as expected and return all that it has said."""
        try:
            found = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not done after {seconds} s:\n{self.said}") from None
        assert found == status, self.said
        return self.said

    def run(self, *arguments: str, status: int = 0, seconds: float = 300) -> str:
        """Run Snakemake to its end."""
        return self.finish(self.start(*arguments), status, seconds)

    def unlock(self) -> None:
        """Forget the lock that a killed Snakemake left."""
        self.run("--unlock")

    @property
    def said(self) -> str:
        log = self.folder / "snakemake.log"
        return log.read_text() if log.exists() else ""

    def trained(self, name: str) -> list[dict[str, Any]]:
        """Return every step that was done for a run, however often."""
        path = self.folder / "state" / name / "steps.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait_for_steps(self, count: int, *names: str, seconds: float = 120) -> None:
        """Wait until runs, by default all, have so many steps behind them, repeated ones included."""
        chosen = names or tuple(self.runs)

        def there() -> bool:
            return all(len(self.trained(name)) >= count for name in chosen)

        try:
            wait_for(f"{count} steps of {', '.join(chosen)}", there, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said}") from None

    def hurry(self, *names: str) -> None:
        """Let runs, by default all, do the rest of their steps without pausing."""
        for name in names or self.runs:
            folder = self.folder / "state" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hurry").touch()

    def break_sbatch(self, times: int, words: str = TIMED_OUT) -> None:
        """Let the next calls of sbatch fail; to be called once, with any number, before Snakemake starts."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "words").write_text(f"sbatch: error: {words}\n")
        (folder / "left").write_text(f"{times}\n")
        if not (folder / "sbatch").exists():
            (folder / "sbatch").write_text(BROKEN_SBATCH.format(folder=folder, sbatch=shutil.which("sbatch")))
            (folder / "sbatch").chmod(0o755)
            self.environment["PATH"] = f"{folder}{os.pathsep}{self.environment['PATH']}"

    def job(self, name: str) -> str:
        """Return the SLURM job that did the last step of a run."""
        return str(self.trained(name)[-1]["job_id"])

    def node(self, name: str) -> str:
        """Return the node where the last step of a run was done."""
        return str(self.trained(name)[-1]["node"])

    def sittings(self, name: str) -> list[Sitting]:
        """Return a run's steps, process by process."""
        found = []
        for _, group in itertools.groupby(self.trained(name), lambda line: (line["node"], line["pid"])):
            lines = list(group)
            who = [str(lines[0][key]) for key in ("job_id", "restart_count", "node")]
            steps = [line["step"] for line in lines]
            found.append(Sitting(*who, steps, lines[0]["at"], lines[-1]["at"]))
        return found

    def number(self, name: str, option: str, default: int) -> int:
        """Return a number among a run's options."""
        words = str(self.runs[name].get("options", "")).split()
        return int(words[words.index(option) + 1]) if option in words else default

    def check(self, name: str, killed: int | None = 0, processes: int = 1) -> list[Sitting]:
        """Assert that a run's result is right, and that no more was trained than kills can explain.

        Args:
            name: the run.
            killed: how often it was ended without being asked to stop first: each may cost the steps since
                the last checkpoint, nothing else may cost any. None: any number of times.
            processes: of the run.
        """
        steps, interval = self.number(name, "--steps", 20), self.number(name, "--interval", 5)
        value, advance = "", trainer().advance
        for step in range(steps):
            value = advance(value, step, processes)
        result = json.loads((self.folder / "results" / f"{name}.json").read_text())
        assert result == {"done": steps, "value": value}
        sittings = self.sittings(name)
        assert len({(sitting.job, sitting.restart) for sitting in sittings}) == len(sittings)
        assert sittings[0].steps[0] == 0
        assert sittings[-1].steps[-1] == steps - 1
        killed = len(sittings) - 1 if killed is None else killed
        repeated = 0
        for before, after in itertools.pairwise(sittings):
            assert before.ended < after.began  # never two at once
            assert before.steps[-1] - interval < after.steps[0] <= before.steps[-1] + 1
            repeated += after.steps[0] <= before.steps[-1]
        for sitting in sittings:
            assert sitting.steps == list(range(sitting.steps[0], sitting.steps[-1] + 1))
        assert repeated <= killed
        assert len(self.trained(name)) <= steps + killed * interval
        return sittings

    def check_nothing_is_left(self) -> None:
        """Assert that no job is queued, no file half-written or for a job, and nothing left to do."""
        wait_for("an empty queue", lambda: not self.cluster.queue(), 30)
        made = [file.name for kind in ("pkl", "sh") for file in self.folder.rglob(f"submitit/*/*.{kind}")]
        assert [name for name in made if not name.endswith("_0_result.pkl")] == []
        for part in ("results", "state"):
            assert not [path for path in (self.folder / part).rglob("*") if path.name.startswith(".")]
        assert "Nothing to be done" in self.run("--dry-run").rsplit("\n\n", 1)[-1]


def trainer() -> Any:
    """The toy trainer as a module."""
    specification = importlib.util.spec_from_file_location("toy_trainer", TOY / "trainer.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
