"""One sbatch: a job, or an array of jobs that ask for the same; and what it means when it is refused."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile

from submitit.core.utils import DelayedSubmission

from snakemake_executor_plugin_submitit import private
from snakemake_executor_plugin_submitit.jobs import Batch, SubmissionError
from snakemake_executor_plugin_submitit.resources import Request
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
# sbatch prefers these to what the script says.
_INPUT = ["partition", "account", "qos", "constraint", "reservation", "gres", "gpus", "gpus_per_node"]
_VARIABLES = {name: f"SBATCH_{name.upper()}" for name in _INPUT}
_VARIABLES |= {"time": "SBATCH_TIMELIMIT", "mem": "SBATCH_MEM_PER_NODE", "mem_per_cpu": "SBATCH_MEM_PER_CPU"}
# The plugin sets what these are about, always.
_ALWAYS = ["SBATCH_ARRAY_INX", "SBATCH_JOB_NAME", "SBATCH_NO_REQUEUE", "SBATCH_OPEN_MODE", "SBATCH_REQUEUE"]
_ALWAYS += ["SBATCH_SIGNAL", "SBATCH_TEST_ONLY", "SBATCH_WAIT"]
# How to reach SLURM at all, which an enclosing job passes on too.
_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER"}


def refusal(words: str) -> SubmissionError:
    """Return what sbatch's words mean."""
    never = _NEVER.search(words) is not None
    smaller = "job array" in words
    return SubmissionError(words, never, not never and _LIMIT.search(words) is not None, smaller)


def unwanted(environment: Mapping[str, str], parameters: Iterable[str]) -> list[str]:
    """Return the variables that have to go before sbatch is called with `parameters`.

    What a rule asks for counts more than SBATCH_PARTITION and its kin, which stay as defaults for the others.
    Inside a job (Snakemake itself may run in one) that job's SLURM_... variables describe the wrong job.
    """
    names = [name for name in _ALWAYS if name in environment]
    names += [_VARIABLES[key] for key in parameters if _VARIABLES.get(key, "") in environment]
    if "SLURM_JOB_ID" in environment:
        names += [name for name in environment if name.startswith("SLURM_") and name not in _KEPT]
    return sorted(set(names))


class Sbatch:
    """Submits batches, again with another account or fewer nodes left out if SLURM asks for that."""

    def __init__(self, settings: ExecutorSettings, guess_account: Callable[[], list[str]]) -> None:
        """Submit by `settings`; `guess_account` returns the accounts of this user."""
        self._settings = settings
        self._guess_account = guess_account
        self._account = ""  # the one that was guessed

    def send(self, batch: Batch, run: str) -> str:
        """Call sbatch; again with another account or fewer nodes left out, if that is what it wants."""
        request = batch.jobs[0].request
        if self._account and "account" not in request.parameters:
            request = request.but(account=self._account)
        try:
            return self._sbatch(batch, request, run)
        except SubmissionError as error:
            always = self._settings.exclude_failed_nodes or None
            if "node configuration" in str(error) and request.parameters.get("exclude") != always:
                return self._sbatch(batch, request.but(exclude=always), run)
            wants_account = "account" in str(error).lower() and "policy" not in str(error)
            if not wants_account or "account" in request.parameters or self._settings.no_account:
                raise
            accounts = self._guess_account()
            if len(accounts) != 1:
                names = f"; name one of {', '.join(accounts)} by slurm_account" if accounts else ""
                raise SubmissionError(f"{error}{names}", never=True) from None
            (self._account,) = accounts
            return self._sbatch(batch, request.but(account=self._account), run)

    def _sbatch(self, batch: Batch, request: Request, run: str) -> str:
        first = batch.jobs[0]
        labels = [one.label for one in batch.jobs]
        first.folder.mkdir(parents=True, exist_ok=True)
        for index, one in enumerate(batch.jobs):
            DelayedSubmission(one.command).dump(first.folder / f"{batch.token}_{index}.pkl")
        parameters = {key: value for key, value in request.parameters.items() if value is not None}
        additional = {**parameters.pop("additional_parameters", {})}
        additional["signal"] = f"B:USR2@{request.stop_seconds(self._settings.stop_seconds)}"
        additional["no-requeue" if self._settings.no_requeue else "requeue"] = True
        parameters |= {"time": request.minutes, "job_name": self._settings.name_prefix + common(labels)}
        text = private.batch_script(
            first.folder,
            f"{shlex.quote(str(first.folder))} {batch.token}",
            len(labels),
            {**parameters, "additional_parameters": additional},
        )
        script = first.folder / f"{batch.token}.sh"
        script.write_text(text)
        drop = [word for name in unwanted(os.environ, [*parameters, *additional]) for word in ("-u", name)]
        options = list(request.options)
        if not any(option.startswith("--comment") for option in options):
            options.append(f"--comment={comment(labels, run, batch.token)}")
        if request.cluster:
            options.append(f"--clusters={request.cluster}")
        job_id = self._submit(["env", *drop, "sbatch", *options, str(script)])
        script.unlink(missing_ok=True)  # SLURM has its own
        return f"{job_id}@{request.cluster}" if request.cluster else job_id

    @staticmethod
    def _submit(command: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise SubmissionError(f"sbatch did not answer within {PATIENCE:.0f} seconds") from None
        if done.returncode:
            said = " ".join((done.stderr.strip() or done.stdout.strip()).split("\n")[-3:])
            raise refusal(said or f"sbatch ended with status {done.returncode} and said nothing")
        found = re.search(r"job (\d+)", done.stdout)
        if not found:
            raise SubmissionError(f"sbatch said {done.stdout.strip()!r}, which names no job")
        return found[1]


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
