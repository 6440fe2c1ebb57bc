"""Fifty faults, drawn at random, over one workflow of twenty runs.

    GDD_ALL=1 pytest tests/slurm/test_soak.py

GDD_FAULTS and GDD_SEED set number and draw, GDD_REPORTS the folder for the report, soak.md.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import wait_for
from slurm_cluster import SlurmCluster
from toy_workflow import Toy

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.thorough,
]

FAULTS, SEED = int(os.environ.get("GDD_FAULTS", "50")), int(os.environ.get("GDD_SEED", "1"))
RUNS, ENDLESS = 20, 4  # runs, and how many of them go on until the last fault is over
PATIENCE = 180


class Soak:
    """One workflow, whose Snakemake is started again whenever it has ended, and faults by their names."""

    def __init__(self, flow: Toy, cluster: SlurmCluster, rng: random.Random) -> None:
        self.flow, self.cluster, self.rng = flow, cluster, rng
        self.began = time.monotonic()
        self.notes: list[str] = []
        self.endless = list(flow.runs)[:ENDLESS]
        self.targets = [f"results/{name}.json" for name in flow.runs if name != "second"]
        self.away: dict[str, float] = {}  # lost and drained nodes, and when they come back
        flow.break_sbatch(0)
        self.second: subprocess.Popen[bytes] | None = None
        self.start()
        self.faults: dict[str, Callable[[], str]] = {
            "a job fails": self.a_job_fails,
            "a job exceeds its memory": self.a_job_exceeds_its_memory,
            "Ctrl-C": self.ctrl_c,
            "Snakemake killed while jobs run": self.killed,
            "Snakemake killed, a job ends unseen": self.killed_and_a_job_ends,
            "time limit": self.time_limit,
            "requeued": self.requeued,
            "preempted": self.preempted,
            "node lost": self.node_lost,
            "node drained": self.node_drained,
            "slurmctld down": self.controller_down,
            "sbatch fails twice": self.sbatch_fails,
            "a limit of submitted jobs": self.limit_of_submission,
            "a rule is edited": self.edited,
            "a second workflow": self.second_workflow,
        }

    def draw(self, count: int) -> list[str]:
        """Return so many names of faults, every one about as often, in random order."""
        names = [list(self.faults)[number % len(self.faults)] for number in range(count)]
        self.rng.shuffle(names)
        return names

    def keep_going(self) -> None:
        """Bring back what is due, and Snakemake if it has ended."""
        for node, due in list(self.away.items()):
            if time.monotonic() > due:
                self.bring_back(node)
        if self.process.poll() is not None:
            self.flow.unlock()
            self.start()

    def start(self) -> None:
        """Start Snakemake."""
        self.said_before, self.started = len(self.flow.said), time.monotonic()
        self.process: subprocess.Popen[bytes] = self.flow.start(*self.targets)

    def bring_back(self, node: str) -> None:
        del self.away[node]
        if node not in self.cluster.daemons:
            self.cluster.start_node(node)
        self.cluster.resume(node)

    def victim(self) -> tuple[str, str]:
        """Return a run that is being trained, and its job."""

        found: dict[str, str] = {}

        def training() -> bool:
            self.keep_going()
            now, running = (
                time.time(),
                {job for job, state in self.cluster.queue("%A %T") if state == "RUNNING"},
            )
            lines = {name: self.flow.trained(name)[-1:] for name in self.flow.runs}
            found.update(
                (name, last[0]["job_id"])
                for name, last in lines.items()
                if last and last[0]["job_id"] in running and now - last[0]["at"] < 5
            )
            return bool(found)

        wait_for("a run that is being trained", training, PATIENCE, every=1)
        return self.rng.choice(sorted(found.items()))

    def node(self) -> str:
        """Return a node that is there; two are left alone."""
        wait_for("enough nodes", lambda: self.keep_going() or len(self.away) < 2, PATIENCE, every=1)
        return self.rng.choice([node for node in self.cluster.nodes if node not in self.away])

    def a_job_fails(self) -> str:
        name, job = self.victim()
        (self.flow.folder / "state" / name / "fail").touch()
        return f"{name}, job {job}"

    def a_job_exceeds_its_memory(self) -> str:
        name, job = self.victim()
        (self.flow.folder / "state" / name / "waste").touch()
        return f"{name}, job {job}"

    def ctrl_c(self) -> str:
        # One that has only just started follows no job yet, so it cancels none.
        wait_for("jobs to follow", lambda: self.keep_going() or self.follows(), PATIENCE, every=1)
        before = len(self.queued())
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(PATIENCE)
        wait_for("an empty queue", lambda: not self.queued(), 60)
        return f"{before} jobs cancelled"

    def follows(self) -> bool:
        """Whether the present Snakemake has handed out its jobs: it does so for all that are ready at once."""
        words = self.flow.said[self.said_before :]
        handed_out = re.findall(
            r"Attached to .*: train run|train run\d+: submitted|Submitting .* failed", words
        )
        return bool(handed_out) and time.monotonic() - self.started > 20

    def queued(self) -> list[list[str]]:
        """Return jobs of the first workflow that are not about to end; on a lost node that takes a while."""
        jobs = self.cluster.queue("%i %T %j")
        return [job for job in jobs if job[1] != "COMPLETING" and job[-1] != "second"]

    def killed(self) -> str:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        time.sleep(pause := self.rng.uniform(0, 15))
        return f"back after {pause:.0f} s"

    def killed_and_a_job_ends(self) -> str:
        name, job = self.victim()
        self.killed()
        if name not in self.endless:
            self.flow.hurry(name)
        time.sleep(5)
        return f"{name}, job {job}"

    def time_limit(self) -> str:
        name, job = self.victim()
        elapsed = dict(self.cluster.queue("%A %M")).get(job, "").split(":")[-2:]
        limit = int(elapsed[0]) + 1 if len(elapsed) == 2 else 1
        self.cluster.try_to("scontrol", "update", f"JobId={self.cluster.one(job)}", f"TimeLimit={limit}")
        return f"{name}, job {job}: {limit} min"

    def requeued(self) -> str:
        name, job = self.victim()
        self.cluster.try_to("scontrol", "requeue", self.cluster.one(job))
        return f"{name}, job {job}"

    def preempted(self) -> str:
        nodes = self.rng.randint(1, len(self.cluster.nodes) - len(self.away))
        urgent = ["sbatch", "--partition=urgent", f"--nodes={nodes}", "--exclusive", "--output=/dev/null"]
        self.cluster.ask(*urgent, "--wrap", "sleep 2")
        return f"{nodes} nodes wanted by others"

    def node_lost(self) -> str:
        node = self.node()
        self.away[node] = time.monotonic() + self.rng.uniform(15, 40)
        return f"{node}, {self.cluster.lose_node(node)} processes"

    def node_drained(self) -> str:
        node = self.node()
        self.away[node] = time.monotonic() + self.rng.uniform(10, 30)
        self.cluster.ask("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=soak")
        return node

    def controller_down(self) -> str:
        self.cluster.stop_controller()
        time.sleep(pause := self.rng.uniform(5, 30))
        self.cluster.start_controller()
        return f"{pause:.0f} s"

    def sbatch_fails(self) -> str:
        self.flow.break_sbatch(2)
        return ""

    def limit_of_submission(self) -> str:
        self.flow.break_sbatch(6, "AssocMaxSubmitJobLimit")
        return ""

    def edited(self) -> str:
        """Another command for the same numbers: what was submitted with the old one has to go."""
        name, job = self.victim()
        self.flow.runs[name]["options"] += " --pause 0.5"
        self.flow.write_runs()
        self.killed()
        return f"{name}, job {job}"

    def second_workflow(self) -> str:
        """In the same folder, with a run of its own, which it may or may not finish before the next one."""
        if self.second is None or self.second.poll() is not None:
            self.second = self.flow.start("results/second.json", "--nolock")
        return "started"

    def happen(self, name: str) -> None:
        """Let a fault happen and note it."""
        self.keep_going()
        at = time.monotonic() - self.began
        told = self.faults[name]()
        self.notes.append(f"{len(self.notes) + 1}. {at:.0f} s: {name}{': ' * bool(told)}{told}")
        (self.flow.folder / "faults").write_text("\n".join(self.notes))  # for those who cannot wait
        time.sleep(self.rng.uniform(1, 8))

    def finish(self) -> None:
        """Let every run come to its end."""
        self.flow.break_sbatch(0)
        for node in list(self.away):
            self.bring_back(node)
        self.flow.hurry()
        if self.second is None or self.second.wait(600):
            self.second = self.flow.start("results/second.json", "--nolock")
        assert self.second.wait(600) == 0, self.flow.said
        for _ in range(4):  # a job that failed is tried again by the next Snakemake only
            if self.process.wait(600) == 0:
                return
            self.flow.unlock()
            self.start()
        raise AssertionError(self.flow.said)

    def report(self, checked: dict[str, str]) -> str:
        """Return what happened and what came of it."""
        lines = [f"# {len(self.notes)} faults over {RUNS} runs (seed {SEED})", "", *self.notes, ""]
        lines += ["| run | steps | trained | starts that trained | jobs |", "|---|---|---|---|---|"]
        return "\n".join([*lines, *checked.values(), ""])


def test_fifty_faults(toy: Callable[..., Toy], cluster: SlurmCluster, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    runs = {
        f"run{number:02d}": {
            "options": f"--steps {4000 if number < ENDLESS else rng.randrange(300, 900)} --interval 10",
            "gpu": rng.choice([1, 2]),
            "mem_mb": 500,
        }
        for number in range(RUNS)
    }
    runs["second"] = {"options": "--steps 4000 --interval 10", "gpu": 1, "mem_mb": 500}
    soak = Soak(toy(**runs), cluster, rng)
    for name in soak.draw(FAULTS):
        soak.happen(name)
    soak.finish()

    checked = {}
    for name in runs:
        sittings = soak.flow.check(name, killed=None)
        steps, trained = soak.flow.number(name, "--steps", 0), len(soak.flow.trained(name))
        jobs = len({sitting.job for sitting in sittings})
        checked[name] = f"| {name} | {steps} | {trained} | {len(sittings)} | {jobs} |"
    soak.flow.check_nothing_is_left()
    folder = Path(os.environ.get("GDD_REPORTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "soak.md").write_text(soak.report(checked))
    print(soak.report(checked))
