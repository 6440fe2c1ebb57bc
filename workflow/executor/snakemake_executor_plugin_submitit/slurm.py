"""SLURM: sbatch, squeue, scancel, scontrol, and sacct where there is one."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

from snakemake_executor_plugin_submitit.jobs import Batch, Cluster, State, array_of
from snakemake_executor_plugin_submitit.resources import Request, minutes
from snakemake_executor_plugin_submitit.sbatch import Sbatch
from snakemake_executor_plugin_submitit.settings import ExecutorSettings

PATIENCE = 60.0  # seconds after which a command that does not return counts as failed
GRACE = 5.0  # seconds for an answer that nobody waits for any more, but the cancelling


class Slurm(Cluster):
    """SLURM, through submitit's batch files.

    The command is the batch script itself instead of a step of it: cheaper by an srun, it alone gets the
    signal before the time limit, and a rule's own srun has the whole allocation.
    """

    title = "SLURM"
    dependencies = True

    def __init__(self, settings: ExecutorSettings, stopping: Callable[[], bool] = lambda: False) -> None:
        """Ask until `stopping` says that nobody waits for the answer any more."""
        self._settings = settings
        self._stopping = stopping
        self._clusters = {""}
        self._sbatch = Sbatch(settings, self._accounts)

    @cached_property
    def arrays(self) -> int:  # type: ignore[override]
        """What the settings say, or SLURM allows."""
        largest = self._config.get("MaxArraySize", "")
        size = self._settings.array_size
        return max(1, min(size, int(largest)) if largest.isdigit() else size)

    @cached_property
    def _config(self) -> dict[str, str]:
        """The answer of `scontrol show config`."""
        lines = (self._ask(["scontrol", "show", "config"]) or "").splitlines()
        return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}

    @cached_property
    def _partitions(self) -> list[dict[str, str]]:
        lines = (self._ask(["scontrol", "show", "partition", "--oneliner"]) or "").splitlines()
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]

    def longest(self, request: Request) -> float:
        """Return the MaxTime of the partition that a request names, or of the default one."""
        named = request.parameters.get("partition") or os.environ.get("SBATCH_PARTITION", "")
        limits = [
            minutes(one["MaxTime"])
            for one in self._partitions
            if (one["PartitionName"] in named.split(",") if named else one["Default"] == "YES")
        ]
        return max(limits, default=float("inf"))

    def send(self, batch: Batch, run: str) -> str:
        """Call sbatch."""
        job_id = self._sbatch.send(batch, run)
        self._clusters.add(batch.jobs[0].request.cluster)
        return job_id

    def _accounts(self) -> list[str]:
        """Return the accounts that this user has."""
        user = pwd.getpwuid(os.getuid()).pw_name
        said = self._ask(["sacctmgr", "-nP", "show", "associations", f"user={user}", "format=account"])
        return sorted(set((said or "").split()))

    def look(self, job_ids: Iterable[str]) -> Mapping[str, State] | None:
        """Return all of this user's jobs that squeue knows, for MinJobAge also ended ones."""
        self._clusters |= {job_id.partition("@")[2] for job_id in job_ids}
        command = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r|%S|%k"]
        found: dict[str, State] = {}
        started = time.monotonic()
        for cluster in self._clusters:
            answer = self._ask([*command, *_of(cluster)])
            if answer is None:
                return None
            found |= parse_squeue(answer, cluster)
        self.seconds = time.monotonic() - started
        return found

    def remembered(self, job_ids: Sequence[str]) -> Mapping[str, State]:
        """Return what sacct, if there is one, says about `job_ids`."""
        found: dict[str, State] = {}
        for id_, state, nodes in self._account_of(job_ids, "JobID,State,NodeList", "-X"):
            name, _, rest = state.partition(" ")  # 'CANCELLED by 1000'
            if name:
                found[id_] = State(name, rest, "" if nodes.startswith("None") else nodes)
        return found

    def used(self, job_ids: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """Return seconds, cpu_seconds, mem_mb and gpu_percent from sacct."""
        found: dict[str, dict[str, float]] = {}
        fields = "JobID,ElapsedRaw,TotalCPU,MaxRSS,TRESUsageInAve"
        for step, elapsed, cpu, rss, tres in self._account_of(job_ids, fields, "--noconvert"):
            id_, at, cluster = step.partition("@")
            row = found.setdefault(id_.split(".")[0] + at + cluster, {})
            gpu = re.search(r"gres/gpuutil=(\d+)", tres)
            values = {"seconds": float(elapsed or 0), "cpu_seconds": 60 * minutes(cpu or "0:0")}
            values |= {"mem_mb": _megabytes(rss), "gpu_percent": float(gpu[1]) if gpu else 0.0}
            for name, value in values.items():
                row[name] = max(value, row.get(name, 0.0))
        return found

    def _account_of(self, job_ids: Sequence[str], fields: str, *options: str) -> list[list[str]]:
        if not job_ids or "/slurmdbd" not in self._config.get("AccountingStorageType", ""):
            return []
        rows = []
        for cluster in {job_id.partition("@")[2] for job_id in job_ids}:
            arrays = {array_of(one).split("@")[0] for one in job_ids if one.partition("@")[2] == cluster}
            ids = ",".join(sorted(arrays))
            command = ["sacct", "-n", "-P", "--array", *options, "-o", fields, "-j", ids, *_of(cluster)]
            lines = [line.split("|") for line in (self._ask(command) or "").splitlines()]
            rows += [[f"{line[0]}@{cluster}" if cluster else line[0], *line[1:]] for line in lines]
        return [row for row in rows if len(row) == fields.count(",") + 1]

    def place_in_queue(self, job_id: str) -> str:
        """Ask for the waiting jobs of everybody in the same partition."""
        cluster = job_id.partition("@")[2]
        command = ["squeue", "--noheader", "--array", "--states=PENDING", "--sort=-p,i", "--format=%i|%P"]
        lines = [line.split("|") for line in (self._ask([*command, *_of(cluster)]) or "").splitlines()]
        partition = dict(lines).get(job_id.split("@", maxsplit=1)[0])
        ids = [id_ for id_, where in lines if where == partition]
        return (
            f"place {ids.index(job_id.split('@', maxsplit=1)[0]) + 1} of {len(ids)} in {partition}"
            if partition
            else ""
        )

    def restart(self, job_id: str) -> bool:
        """Call scontrol, which also requeues what has ended as long as the controller knows it."""
        id_, _, cluster = job_id.partition("@")
        return self._ask(["scontrol", *_of(cluster), "requeue", id_]) is not None

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:
        """End jobs, `whole_arrays` by their array's id alone: one call ends thousands."""
        whole = set(whole_arrays)
        every = sorted(whole) + [one for one in job_ids if array_of(one) not in whole]
        for cluster in {one.partition("@")[2] for one in every}:
            words = [one.split("@")[0] for one in every if one.partition("@")[2] == cluster]
            for start in range(0, len(words), 500):
                self._ask(["scancel", "--quiet", *_of(cluster), *words[start : start + 500]], patient=True)

    def _ask(self, command: Sequence[str], patient: bool = False) -> str | None:
        """Return what a command printed, None if it failed; then `trouble` says why."""
        defaults = ("SQUEUE_", "SACCT_", "SCANCEL_")  # would change what is asked
        environment = {name: value for name, value in os.environ.items() if not name.startswith(defaults)}
        try:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for Snakemake
            )
        except OSError as error:
            self.trouble = str(error)
            return None
        started = time.monotonic()
        while True:
            try:
                answer, complaint = process.communicate(timeout=0.5)
            except subprocess.TimeoutExpired:
                took = time.monotonic() - started
                if took < PATIENCE and (patient or took < GRACE or not self._stopping()):
                    continue
                process.kill()
                process.communicate()
                self.trouble = f"{command[0]} did not answer within {took:.0f} seconds"
                return None
            if process.returncode:
                self.trouble = complaint.strip() or f"{command[0]} ended with status {process.returncode}"
                return None
            return answer


def parse_squeue(text: str, cluster: str = "") -> dict[str, State]:
    """Read lines of `%i|%T|%N|%r|%S|%k`."""
    found: dict[str, State] = {}
    for line in text.splitlines():
        fields = line.strip().split("|", 5)
        if len(fields) == 6:
            id_, name, nodes, reason, start, said = fields
            start = "" if start == "N/A" else start
            id_ = f"{id_}@{cluster}" if cluster else id_
            found[id_] = State(name, "" if reason == "None" else reason, nodes, said, start)
    return found


def _of(cluster: str) -> list[str]:
    return [f"--clusters={cluster}"] if cluster else []


def _megabytes(size: str) -> float:
    found = re.fullmatch(r"([\d.]+)([KMGT]?)", size)
    return (
        float(found[1]) * {"": 1e-6, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}[found[2]]
        if found
        else 0.0
    )
