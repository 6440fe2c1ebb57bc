"""A job on its node speaks to its scheduler."""

from __future__ import annotations

import subprocess
import time

from submitit.core.job_environment import JobEnvironment

SETTLED = 10.0  # seconds after which SLURM would have marked a job that it is ending


def requeue(job: JobEnvironment) -> None:
    """Ask for another start of `job` under its own id, for as long as it takes.

    The controller may be away just now; the job's own end, which is near, bounds the trying.
    """
    while True:
        try:
            return job._requeue(1)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"snakemake-executor-plugin-submitit: {error}; again in 5 seconds", flush=True)
            time.sleep(5)


def still_wanted(job: JobEnvironment) -> bool:
    """Return whether SLURM, some seconds after a SIGTERM, still takes `job` for running.

    If so, the signal did not come with a scancel, a requeue or a time limit, but from a node that shuts down
    or at the start of a preemption's grace time.
    """
    if job.cluster != "slurm":
        return False
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={job.job_id}", "--format=%T"]
    until = time.monotonic() + SETTLED
    state = ""
    while time.monotonic() < until:
        time.sleep(1)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except subprocess.TimeoutExpired:
            continue
        state = done.stdout.strip() if done.returncode == 0 else ""
        if state and state != "RUNNING":
            return False
    return state == "RUNNING"
