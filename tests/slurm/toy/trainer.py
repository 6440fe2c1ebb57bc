"""A trainer in miniature, which stops, is killed and resumes as the real one does, and writes down every step.

Its result depends on every step having been done once, in order, upon the state that the one before left.
Started by torchrun it is several processes of which the first one writes. Once there is a file `hurry` beside
its state it no longer pauses between steps; `fail` and `waste` make it fail or take a gigabyte, once.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import sys
import time
from pathlib import Path

from gdd.errors import STOPPED
from gdd.files import write_json
from gdd.training.processes import StopRequest

KNOWN = ("job_id", "restart_count", "array_job_id", "array_task_id")  # of SLURM, for each step


def advance(value: str, step: int, processes: int = 1) -> str:
    """Return what a step makes of the state."""
    return hashlib.sha256(f"{value} {step} {processes}".encode()).hexdigest()


class Together:
    """The processes of the run; alone, it needs no torch."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if self.size > 1:
            import torch.distributed

            torch.distributed.init_process_group("gloo")

    def total(self, number: int) -> int:
        if self.size == 1:
            return number
        import torch.distributed

        tensor = torch.tensor(number)
        torch.distributed.all_reduce(tensor)
        return int(tensor)

    def end(self) -> None:
        if self.size > 1:
            import torch.distributed

            torch.distributed.destroy_process_group()


def told(file: Path) -> bool:
    """Return whether the file is there, and remove it."""
    if not file.exists():
        return False
    file.unlink()
    return True


def train(options: argparse.Namespace, together: Together) -> int:
    checkpoint, log = options.state / "checkpoint.json", options.state / "steps.jsonl"
    state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"done": 0, "value": ""}
    job = {name: os.environ.get(f"SLURM_{name.upper()}", "") for name in KNOWN}
    facts = {**job, "node": os.environ.get("SLURMD_NODENAME", ""), "pid": os.getpid()}
    facts["gpus"] = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    for leftover in [*options.state.glob(".*"), *options.result.parent.glob(f".{options.result.stem}.*")]:
        leftover.unlink(missing_ok=True)  # of a process that was killed while it wrote
    waste: list[bytearray] = []
    with StopRequest() as stop:
        while state["done"] < options.steps:
            time.sleep(0.01 if (options.state / "hurry").exists() else options.pause)
            step = state["done"]
            if step == options.fail_at or told(options.state / "fail"):
                sys.exit("the toy was told to fail here")
            megabytes = 1000 if told(options.state / "waste") else options.waste_mb
            waste.append(bytearray(os.urandom(1024)) * (1024 * megabytes))
            if megabytes == 1000:
                time.sleep(10)  # until SLURM has seen it
            processes = together.total(1)
            state = {"done": step + 1, "value": advance(state["value"], step, processes)}
            stopping = together.total(int(stop.requested)) > 0
            if together.rank == 0:
                with log.open("a") as file:
                    file.write(json.dumps({"step": step, "at": time.time(), **facts}) + "\n")
                if stopping or state["done"] % options.interval == 0:
                    write_json(checkpoint, state)
            if stopping:
                return STOPPED
    if together.rank == 0:
        write_json(checkpoint, state)
        write_json(options.result, state)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("state", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--interval", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0.5)
    parser.add_argument("--fail-at", type=int)
    parser.add_argument("--waste-mb", type=int, default=0)
    options = parser.parse_args()
    together = Together()
    options.state.mkdir(parents=True, exist_ok=True)
    with (options.state / "lock").open("w") as lock:
        if together.rank == 0:
            fcntl.flock(lock, fcntl.LOCK_EX)
        status = train(options, together)
    together.end()
    return status


if __name__ == "__main__":
    sys.exit(main())
