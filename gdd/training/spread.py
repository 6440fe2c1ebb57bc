"""One run over several machines of a SLURM job: a step whose tasks start the processes of a machine each."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from typing import NoReturn

from gdd.errors import UserError
from gdd.training.launch import Nodes, free_port

MEETING = "GDD_MEETING"  # "host port" of the first machine: set in the tasks of the step


def spread(command: Sequence[str], nodes: int, gpus: int) -> NoReturn:
    """Become the step that runs `command` on so many machines of this job, with `gpus` of each.

    It ends with the highest status of its tasks.

    Raises:
        UserError: this is no SLURM job, or one of fewer machines, or SLURM does not answer.
    """
    there = int(os.environ.get("SLURM_JOB_NUM_NODES", "0"))
    if there < nodes:
        has = f"this SLURM job has {there}" if there else "this is no SLURM job"
        raise UserError(f"The run is to be spread over {nodes} machines, but {has}.")
    # The first one is where this process runs, so that a port that is free here is free there.
    environment = os.environ | {MEETING: f"{_first_host()} {free_port()}"}
    os.execvpe("srun", _step(command, nodes, gpus), environment)


def own_place() -> Nodes | None:
    """Return all machines and which of them this is, in a task of such a step; None anywhere else."""
    if MEETING not in os.environ:
        return None
    host, port = os.environ[MEETING].split()
    count, index = int(os.environ["SLURM_STEP_NUM_NODES"]), int(os.environ["SLURM_NODEID"])
    return Nodes(count, index, host, int(port))


def _step(command: Sequence[str], nodes: int, gpus: int) -> list[str]:
    # This process is the batch script, or in a step that has all of the job (`--overlap`); its variables say
    # 1 for `--ntasks`, and bind to processors of this machine. Since SLURM 22.05 a step gets one processor a
    # task unless it is told. The others of a run whose processes have ended on one machine have a minute.
    options = ["--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    options += ["--cpu-bind=none", "--wait=60"]
    if cores := os.environ.get("SLURM_CPUS_PER_TASK"):
        options.append(f"--cpus-per-task={cores}")
    if gpus:
        options.append(f"--gpus-per-node={gpus}")
    # Tasks start with every signal as usual, and a request to stop would end them before they can obey it.
    return ["srun", *options, "env", "--ignore-signal=USR2", *command]


def _first_host() -> str:
    names = _told("show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    # A node's name is what SLURM calls it, its address what the network does.
    address = re.search(r"\bNodeAddr=(\S+)", _told("show", "node", names[0], "--oneliner"))
    return address[1] if address else names[0]


def _told(*question: str) -> str:
    command = ["scontrol", *question]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1].rstrip(".")
        raise UserError(
            f"`{' '.join(command)}`, which is to say where the run's machines are, failed ({reason}); start "
            "the job again once SLURM answers."
        ) from None
