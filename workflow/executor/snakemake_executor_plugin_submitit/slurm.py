"""SLURM: sbatch, squeue, scancel, scontrol, and sacct where there is one."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any

from submitit.core.utils import DelayedSubmission

from snakemake_executor_plugin_submitit import private
from snakemake_executor_plugin_submitit.clusters import Cluster, State, SubmissionError, array_of
from snakemake_executor_plugin_submitit.jobs import Batch
from snakemake_executor_plugin_submitit.progress import ask, pickled
from snakemake_executor_plugin_submitit.resources import Request, minutes
from snakemake_executor_plugin_submitit.settings import ExecutorSettings

PATIENCE = 120.0  # seconds after which an sbatch that does not return counts as failed
LONGEST_COMMENT = 200

# Asking again would get the same answer.
_NEVER = re.compile(
    r"invalid (partition|account|qos|qualit|generic resource|feature|constraint|reservation|user|node name"
    r"|node count|--|license|gres|memory|trackable|time|cpu|wckey|dependency)|reservation is invalid"
    r"|specification invalid|known by database|(Max|Min)\w+PerJob|QOSMin|MaxMemPerLimit"
    r"|Partition(Time|Node)Limit|unrecognized option|invalid option|unknown option|ambiguous option"
    r"|requires an argument|node configuration is not available|requested time limit is invalid"
    r"|memory specification can not be satisfied|more processors requested than permitted"
    r"|user not found|access/permission denied|not permitted to use|cpu count .*not",
    re.IGNORECASE,
)
# Others, often one's own, have to end first.
_LIMIT = re.compile(
    r"MaxSubmit|GrpSubmit|MaxJobs|MaxJobCount|accounting/QOS policy|temporarily un|No space left",
    re.IGNORECASE,
)
# What rules that do not say it otherwise take from the environment.
_DEFAULTS = ("partition", "account", "qos", "constraint", "reservation")
# How to reach SLURM at all, which an enclosing job passes on too.
_WAY = {"SLURM_CONF", "SLURM_CONF_SERVER"}


class Slurm(Cluster):
    """SLURM, through submitit's batch files.

    The command is the batch script itself instead of a step of it: cheaper by an srun, it alone gets the
    signal before the time limit, and a rule's own srun has the whole allocation.
    """

    title = "SLURM"

    def __init__(self, settings: ExecutorSettings) -> None:
        super().__init__(settings)
        self._clusters = {""}
        self._account = ""  # the one that was guessed

    @cached_property
    def arrays(self) -> int:  # type: ignore[override]
        largest = self._config.get("MaxArraySize", "")
        size = self._settings.array_size
        return max(1, min(size, int(largest)) if largest.isdigit() else size)

    @cached_property
    def _config(self) -> dict[str, str]:
        lines = (self._ask("scontrol", "show", "config") or "").splitlines()
        return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}

    @cached_property
    def _partitions(self) -> list[dict[str, str]]:
        lines = (self._ask("scontrol", "show", "partition", "--oneliner") or "").splitlines()
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]

    def longest(self, request: Request) -> float:
        """Return the MaxTime of the partition that a request names, or of the default one."""
        named = request.options.get("partition") or os.environ.get("SBATCH_PARTITION", "")
        limits = [
            minutes(one["MaxTime"])
            for one in self._partitions
            if (one["PartitionName"] in named.split(",") if named else one["Default"] == "YES")
        ]
        return max(limits, default=float("inf"))

    def send(self, batch: Batch, run: str) -> str:
        """Call sbatch; again with another account or fewer nodes left out, if that is what it wants."""
        request = batch.jobs[0].request
        self._clusters.add(request.cluster)
        if self._account and "account" not in request.options:
            request = request.but(account=self._account)
        try:
            return submit(batch, request, self._settings, run)
        except SubmissionError as error:
            words = str(error)
            always = self._settings.exclude_failed_nodes or None
            if "node configuration" in words and request.options.get("exclude") != always:
                request = request.but(exclude=always)
            elif "account" in words.lower() and "policy" not in words and "account" not in request.options:
                request = request.but(account=self._guess_account(error))
            else:
                raise
        return submit(batch, request, self._settings, run)

    def _guess_account(self, error: SubmissionError) -> str:
        """Return this user's account, where SLURM asks for one and there is just one."""
        if self._settings.no_account:
            raise error
        user = pwd.getpwuid(os.getuid()).pw_name
        said = self._ask("sacctmgr", "-nP", "show", "associations", f"user={user}", "format=account")
        accounts = sorted(set((said or "").split()))
        if len(accounts) != 1:
            names = f"; name one of {', '.join(accounts)} by slurm_account" if accounts else ""
            raise SubmissionError(f"{error}{names}", never=True)
        (self._account,) = accounts
        return self._account

    def look(self, job_ids: Iterable[str]) -> Mapping[str, State] | None:
        """Return all of this user's jobs that squeue knows, for MinJobAge also ended ones."""
        self._clusters |= {job_id.partition("@")[2] for job_id in job_ids}
        command = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r|%S|%k"]
        found: dict[str, State] = {}
        started = time.monotonic()
        for cluster in tuple(self._clusters):  # two threads ask
            answer = self._ask(*command, *_of(cluster))
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
        for step, elapsed, cpu, memory, tres in self._account_of(job_ids, fields, "--noconvert"):
            id_, at, cluster = step.partition("@")
            row = found.setdefault(id_.partition(".")[0] + at + cluster, {})
            gpu = re.search(r"gres/gpuutil=(\d+)", tres)
            values = {
                "seconds": float(elapsed or 0),
                "cpu_seconds": 60 * minutes(cpu or "0:0"),
                "mem_mb": _megabytes(memory),
                "gpu_percent": float(gpu[1]) if gpu else 0.0,
            }
            row.update({name: max(value, row.get(name, 0.0)) for name, value in values.items()})
        return found

    def _account_of(self, job_ids: Sequence[str], fields: str, *options: str) -> list[list[str]]:
        if not job_ids or "/slurmdbd" not in self._config.get("AccountingStorageType", ""):
            return []
        rows = []
        for cluster, ids in _by_cluster(map(array_of, job_ids)).items():
            command = ["sacct", "-n", "-P", *options, "-o", fields, "-j", ",".join(ids)]
            lines = [line.split("|") for line in (self._ask(*command, *_of(cluster)) or "").splitlines()]
            rows += [[f"{line[0]}@{cluster}" if cluster else line[0], *line[1:]] for line in lines]
        return [row for row in rows if len(row) == fields.count(",") + 1]

    def place_in_queue(self, job_id: str) -> str:
        """Ask for the waiting jobs of everybody in the same partition."""
        id_, _, cluster = job_id.partition("@")
        command = ["squeue", "--noheader", "--array", "--states=PENDING", "--sort=-p,i", "--format=%i|%P"]
        lines = [line.split("|") for line in (self._ask(*command, *_of(cluster)) or "").splitlines()]
        partition = dict(lines).get(id_)
        ids = [one for one, where in lines if where == partition]
        return f"place {ids.index(id_) + 1} of {len(ids)} in {partition}" if partition else ""

    def restart(self, job_id: str) -> bool:
        """Call scontrol, which also requeues what has ended as long as the controller knows it."""
        id_, _, cluster = job_id.partition("@")
        return self._ask("scontrol", *_of(cluster), "requeue", id_) is not None

    def cancel(self, job_ids: Iterable[str], whole_arrays: Iterable[str] = ()) -> None:
        """End jobs, `whole_arrays` by their array's id alone: one call ends thousands."""
        whole = set(whole_arrays)
        every = [*whole, *(one for one in job_ids if array_of(one) not in whole)]
        for cluster, ids in _by_cluster(every).items():
            for start in range(0, len(ids), 500):
                self._ask("scancel", "--quiet", *_of(cluster), *ids[start : start + 500])

    def _ask(self, *command: str) -> str | None:
        """Return what a command printed, None if it failed; then `trouble` says why."""
        answer, failure = ask(*command, patience=60.0 if command[0] == "scancel" else self.patience)
        self.trouble = failure
        return None if failure else answer


def parse_squeue(text: str, cluster: str = "") -> dict[str, State]:
    """Read lines of `%i|%T|%N|%r|%S|%k`."""
    found: dict[str, State] = {}
    for line in text.splitlines():
        fields = line.strip().split("|", 5)
        if len(fields) == 6:
            id_, name, nodes, reason, start, said = fields
            reason, start = reason.replace("None", ""), start.replace("N/A", "")
            found[f"{id_}@{cluster}".rstrip("@")] = State(name, reason, nodes, said, start)
    return found


def _of(cluster: str) -> list[str]:
    return [f"--clusters={cluster}"] if cluster else []


def _by_cluster(job_ids: Iterable[str]) -> dict[str, list[str]]:
    """Return the ids, without their clusters' names, of each cluster."""
    found: dict[str, list[str]] = {}
    for one in sorted(set(job_ids)):
        id_, _, cluster = one.partition("@")
        found.setdefault(cluster, []).append(id_)
    return found


def _megabytes(size: str) -> float:
    """Read sacct's `204800K`."""
    found = re.fullmatch(r"([\d.]+)([KMGT]?)", size)
    units = {"": 2**-20, "K": 2**-10, "M": 1, "G": 2**10, "T": 2**20}
    return float(found[1]) * units[found[2]] if found else 0.0


def refusal(words: str) -> SubmissionError:
    never = _NEVER.search(words) is not None
    return SubmissionError(words, never, not never and bool(_LIMIT.search(words)), "job array" in words)


def unwanted(environment: Iterable[str], options: Mapping[str, Any]) -> list[str]:
    """Return the variables that have to go before sbatch is called with `options`, to which it prefers them.

    Inside a job (Snakemake itself may run in one) that job's SLURM_... variables describe the wrong job.
    """
    kept = _WAY | {f"SBATCH_{name.upper()}" for name in _DEFAULTS if name not in options}
    wrong = ("SBATCH_", "SLURM_") if "SLURM_JOB_ID" in environment else ("SBATCH_",)
    return [name for name in environment if name.startswith(wrong) and name not in kept]


def submit(batch: Batch, request: Request, settings: ExecutorSettings, run: str) -> str:
    """Submit a batch of jobs that ask for `request`, and return the id.

    Raises:
        SubmissionError: with sbatch's words.
    """
    folder, labels = batch.jobs[0].folder, [one.label for one in batch.jobs]
    folder.mkdir(parents=True, exist_ok=True)
    for index, one in enumerate(batch.jobs):
        DelayedSubmission(one.command).dump(pickled(folder, batch.token, index))
    options = {name: value for name, value in request.options.items() if value is not None} | {
        "job_name": settings.name_prefix + common(labels),
        "signal": f"B:USR2@{request.stop_seconds(settings.stop_seconds)}",
        "no-requeue" if settings.no_requeue else "requeue": True,
    }
    script = folder / f"{batch.token}.sh"
    arguments = f"{shlex.quote(str(folder))} {batch.token}"
    script.write_text(private.batch_script(folder, arguments, len(labels), options))
    extra = list(request.extra)
    if not any(option.startswith("--comment") for option in extra):
        extra.append(f"--comment={comment(labels, run, batch.token)}")
    if request.cluster:
        extra.append(f"--clusters={request.cluster}")
    without = unwanted(os.environ, options)
    answer, failure = ask("sbatch", *extra, str(script), patience=PATIENCE, without=without)
    script.unlink(missing_ok=True)  # SLURM has its own
    if failure:
        raise refusal(failure)
    job_id = re.search(r"job (\d+)", answer)
    if not job_id:
        raise SubmissionError(f"sbatch said {answer!r}, which names no job")
    return f"{job_id[1]}@{request.cluster}" if request.cluster else job_id[1]


def common(labels: Sequence[str]) -> str:
    """Return the words that labels begin with in common."""
    words = zip(*(label.split() for label in labels), strict=False)
    return " ".join(word[0] for word in takewhile(lambda word: len(set(word)) == 1, words))


def comment(labels: Sequence[str], run: str, token: str) -> str:
    """Return what squeue shows beside jobs: what they are, and how a job is found whose id nobody noted."""
    rest = [label.removeprefix(common(labels)).strip() for label in labels]
    words = labels[0] if len(labels) == 1 else f"{common(labels)}: {', '.join(rest)}"
    if len(words) > LONGEST_COMMENT:
        words = words[: LONGEST_COMMENT - 1].rsplit(",", 1)[0] + ", ..."
    return f"{words} (snakemake {run} {token})"
