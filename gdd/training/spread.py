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
        UserError: this is no SLURM job, or one of fewer machines.
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
    # `--overlap`: this process is in a step itself, which has all of the job. `--ntasks`: that step's
    # variables say 1. Nor is its binding to processors any good for other machines.
    options = ["--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    if "SLURM_CPU_BIND" in os.environ:
        options.append("--cpu-bind=none")
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
    return subprocess.run(["scontrol", *question], capture_output=True, text=True, check=True).stdout
