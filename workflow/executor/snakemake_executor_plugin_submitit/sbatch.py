"""One sbatch: a job, or an array of jobs that ask for the same."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, FailedSubmissionError, JobPaths
from submitit.slurm.slurm import SlurmExecutor

from snakemake_executor_plugin_submitit.environment import unwanted
from snakemake_executor_plugin_submitit.parameters import Request

PATIENCE = 120.0  # seconds after which an sbatch that does not return counts as failed

# Asking again would get the same answer.
_PERMANENT = re.compile(
    r"invalid (partition|account|qos|qualit|generic resource|feature|constraint|reservation|user|job array"
    r"|node count|--gres|license|gres|--gpus|memory|trackable|time|cpu|wckey|dependency)"
    r"|unrecognized option|invalid option|unknown option|ambiguous option|requires an argument"
    r"|node configuration is not available|requested time limit is invalid"
    r"|memory specification can not be satisfied|more processors requested than permitted"
    r"|user not found|access/permission denied|not permitted to use|cpu count .*not",
    re.IGNORECASE,
)


class SubmissionError(Exception):
    """sbatch did not take a job; `permanent` if it never will."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.permanent = _PERMANENT.search(message) is not None


class Sbatch(SlurmExecutor):
    """submitit's SLURM executor with four differences.

    - The command is the batch script itself instead of a step of it: cheaper by an srun, it alone gets the
      signal before the time limit, and a rule's own srun has the whole allocation.
    - Pickles lie in place before sbatch is called, so a job whose submitter died runs all the same.
    - Variables of an enclosing job do not reach sbatch.
    - sbatch's own words are in the error.
    """

    def __init__(
        self, folder: Path, request: Request, comment: str, stop_seconds: int, requeue: bool
    ) -> None:
        """Prepare to submit jobs that ask for `request`.

        Args:
            folder: on a disk that the nodes see; pickles and logs go there.
            request: the resources.
            comment: shown by squeue; how a job is found whose id nobody noted.
            stop_seconds: how long before the time limit the job gets SIGUSR2.
            requeue: whether SLURM may start the job again.
        """
        super().__init__(folder, python=f"exec {shlex.quote(sys.executable)}")
        self._options = list(request.options)
        if not any(option.startswith("--comment") for option in self._options):
            self._options.append(f"--comment={comment}")
        parameters = dict(request.parameters)
        additional = {**parameters.pop("additional_parameters", {})}
        additional["signal"] = f"B:USR2@{stop_seconds}"
        additional["requeue" if requeue else "no-requeue"] = True
        self._unwanted = unwanted(os.environ, [*parameters, *additional])
        self.update_parameters(
            **parameters,
            additional_parameters=additional,
            use_srun=False,
            stderr_to_stdout=True,
            wckey=None,  # submitit's default is refused where keys are enforced
        )

    @property
    def _submitit_command_str(self) -> str:
        module = "snakemake_executor_plugin_submitit.node"
        return f"{self.python} -u -m {module} {shlex.quote(str(self.folder))}"

    def send(self, functions: Sequence[Callable[[], Any]], token: str) -> str:
        """Submit `functions` under the unique name `token` and return the job's (or the array's) id.

        Raises:
            SubmissionError: sbatch refused, failed or did not answer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for index, function in enumerate(functions):
            submission = DelayedSubmission(function)
            submission.set_timeout(int(self.parameters.get("time") or 0), 1000)
            submission.dump(self.folder / f"{token}_{index}.pkl")
        if len(functions) > 1:
            self.parameters.update(map_count=len(functions), array_parallelism=len(functions))
        self.parameters["setup"] = [_take_pickle(self.folder, token)]
        script = self.folder / f"{token}.sh"
        script.write_text(self._make_submission_file_text(self._submitit_command_str, token))
        drop = [word for name in self._unwanted for word in ("-u", name)]
        job_id = _call(["env", *drop, "sbatch", *self._options, str(script)])
        script.rename(self.folder / f"{job_id}_submission.sh")
        return job_id


def _take_pickle(folder: Path, token: str) -> str:
    """Return the shell command by which a job gives its pickle the name that submitit looks for."""
    index = "${SLURM_ARRAY_TASK_ID:-0}"
    name = "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"
    here = shlex.quote(str(folder))
    return (
        f'job={name}; job="${{job:-$SLURM_JOB_ID}}"; '
        f'[ -e {here}/"$job"_submitted.pkl ] || mv {here}/{token}_"{index}".pkl {here}/"$job"_submitted.pkl'
    )


def _call(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise SubmissionError(f"sbatch did not answer within {PATIENCE:.0f} seconds") from None
    except OSError as error:
        raise SubmissionError(f"sbatch could not be started: {error}") from error
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split("\n")[-3:])
        raise SubmissionError(said or f"sbatch ended with status {done.returncode} and said nothing")
    try:
        return SlurmExecutor._get_job_id_from_submission_command(done.stdout)
    except FailedSubmissionError as error:
        raise SubmissionError(f"sbatch said {done.stdout.strip()!r}, which names no job") from error


def paths(folder: Path, job_id: str) -> JobPaths:
    """Return where submitit keeps a job's files."""
    return JobPaths(folder, job_id=job_id, task_id=0)
