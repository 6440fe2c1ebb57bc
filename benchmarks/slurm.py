"""Many small jobs through SLURM: this executor plugin beside the official one, without and with arrays.

    P=snakemake-executor-plugin-slurm; pip install --target /tmp/official --no-deps $P $P-jobstep
    python benchmarks/slurm.py --official /tmp/official --json slurm.json

Both send the same rules to the same SLURM, which is booted for the purpose on loopback (Debian's packages
slurmctld, slurmd, munge, slurmdbd and mariadb-server have to be installed), one after the other and in turn.
Then so many jobs are queued, where nothing can start, and cancelled by one Ctrl-C. Every command of SLURM is
counted on its way, by whoever it was called.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from slurm_cluster import SlurmCluster  # noqa: E402

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "srun", "scontrol", "sinfo", "sacctmgr")
QUESTIONS = ("squeue", "sacct", "scontrol", "sinfo", "sacctmgr")
SNAKEFILE = """
rule all:
    input: expand("out/{number}", number=range(int(config["jobs"])))

rule trivial:
    output: "out/{number}"
    threads: 1
    resources: mem_mb=500, runtime=5
    shell: "touch {output}"
"""


class Side:
    """One executor plugin on one cluster."""

    def __init__(self, name: str, arguments: list[str], packages: list[Path], cluster: SlurmCluster) -> None:
        self.name, self.arguments, self.cluster = name, arguments, cluster
        self.folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
        (self.folder / "Snakefile").write_text(SNAKEFILE)
        path = [str(self.counters()), str(Path(sys.executable).parent), os.environ["PATH"]]
        self.environment = cluster.environment | {
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": os.pathsep.join(map(str, packages)),
        }

    def counters(self) -> Path:
        """Put commands on the path that note when they are called, and where this cluster is.

        The official plugin's jobs forget SLURM_CONF; without it they would look for a cluster in /etc.
        """
        folder = self.folder / "bin"
        folder.mkdir()
        for command in COMMANDS:
            if real := shutil.which(command):
                (folder / command).write_text(
                    "#!/bin/bash\n"
                    f'echo "$EPOCHREALTIME {command}" >> {self.folder}/calls\n'
                    f"export SLURM_CONF={self.cluster.environment['SLURM_CONF']}\n"
                    f'exec {real} "$@"\n'
                )
                (folder / command).chmod(0o755)
        return folder

    def start(self, jobs: int) -> subprocess.Popen[bytes]:
        """Start Snakemake on so many jobs, none of them done."""
        for name in ("out", ".snakemake", "calls"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "calls").write_text("")
        command = [str(Path(sys.executable).with_name("snakemake")), "--jobs", str(jobs), *self.arguments]
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(
                [*command, "--config", f"jobs={jobs}"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def calls(self) -> list[tuple[float, str]]:
        """Return when which command of SLURM was called."""
        words = [line.split() for line in (self.folder / "calls").read_text().splitlines()]
        return [(float(when), command) for when, command in words]

    def run(self, jobs: int) -> dict[str, Any]:
        """Run so many jobs to their end."""
        start = time.time()
        process = self.start(jobs)
        status = process.wait()
        seconds = time.time() - start
        assert status == 0, (self.folder / "log").read_text()
        counts = collections.Counter(command for _, command in self.calls())
        questions = sum(counts[command] for command in QUESTIONS)
        return {"seconds": seconds, "calls": dict(counts), "questions_a_minute": questions * 60 / seconds}

    def queue_and_cancel(self, jobs: int, watched: float) -> dict[str, Any]:
        """Queue so many jobs where nothing starts, look on for some seconds, and cancel them by Ctrl-C."""
        self.cluster.ask("scontrol", "update", "PartitionName=gpu", "State=DOWN")
        start = time.time()
        process = self.start(jobs)
        while len(self.cluster.queue()) < jobs:
            assert process.poll() is None, (self.folder / "log").read_text()
            assert time.time() < start + 600
            time.sleep(0.5)
        queued = time.time()
        time.sleep(watched)
        asked = sum(when > queued for when, command in self.calls() if command in QUESTIONS)
        interrupted = time.time()
        os.killpg(process.pid, signal.SIGINT)
        while self.cluster.queue():
            assert time.time() < interrupted + 600
            time.sleep(0.1)
        empty = time.time()
        process.wait()
        ended = time.time()
        self.cluster.ask("scontrol", "update", "PartitionName=gpu", "State=UP")
        sbatch = [when for when, command in self.calls() if command == "sbatch"]
        return {
            "seconds_to_queue": queued - start,
            "seconds_from_first_sbatch_to_last": sbatch[-1] - sbatch[0],
            "sbatch_calls": len(sbatch),
            "questions_a_minute": asked * 60 / watched,
            "seconds_to_empty_queue": empty - interrupted,
            "seconds_to_end": ended - interrupted,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--official", type=Path, help="Where its plugin is installed; without it, left out.")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--queued", type=int, default=2000)
    parser.add_argument("--watched", type=float, default=60, help="Seconds to count questions for.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
    # Real clusters keep accounts, which is what the official plugin asks first.
    cluster = SlurmCluster(accounting=True)
    try:
        plugin = [ROOT / "workflow" / "executor", ROOT]
        ours = Side("ours", ["--executor", "submitit"], plugin, cluster)
        sides = [ours]
        if options.official:
            official = ["--executor", "slurm"]
            sides.append(Side("official", official, [options.official], cluster))
            arrays = [*official, "--slurm-array-jobs", "all"]
            sides.append(Side("official, arrays", arrays, [options.official], cluster))
        found: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
        for number in range(options.rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                found[side.name].append(side.run(options.jobs))
                print(f"{side.name}: {found[side.name][-1]}", file=sys.stderr, flush=True)
        queued = ours.queue_and_cancel(options.queued, options.watched) if options.queued else {}
    finally:
        cluster.down()
    for side in sides:
        shutil.rmtree(side.folder)

    print(f"| plugin | {options.jobs} trivial jobs, s | questions to SLURM a minute | calls |")
    print("|---|---|---|---|")
    seconds = {name: statistics.median(run["seconds"] for run in runs) for name, runs in found.items()}
    for name, runs in found.items():
        calls = ", ".join(f"{count} {command}" for command, count in sorted(runs[-1]["calls"].items()))
        print(f"| {name} | {seconds[name]:.1f} | {runs[-1]['questions_a_minute']:.1f} | {calls} |")
    for name, took in list(seconds.items())[1:]:
        print(f"\nTime taken, ours / {name}: {seconds['ours'] / took:.2f}")
    for name, value in queued.items():
        print(f"{options.queued} jobs queued and cancelled, {name.replace('_', ' ')}: {value:.1f}")
    if options.json:
        options.json.write_text(json.dumps({"rounds": found, "queued": queued}, indent=2) + "\n")


if __name__ == "__main__":
    main()
