"""A small run of random networks on a device; as a script, one of several processes of it.

    python small_run.py DEVICE RANK SIZE FOLDER

The processes may share a GPU, which NCCL does not allow: they exchange everything by gloo.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gdd.config.config import load_config
from gdd.distill.student import Student
from gdd.experiments import Experiments
from gdd.probe.random_run import RandomRun, random_run, recipe_of
from gdd.training.world import World, own_device

ROOT = Path(__file__).parents[2]
BATCH, GROUP, STEPS = 16, 4, 4


@contextmanager
def small_run() -> Iterator[RandomRun]:
    """Yield the digits' networks with random weights, with four groups in a batch and R1 in the third step."""
    experiments = Experiments(load_config(ROOT / "config"))
    recipe = recipe_of(experiments, "digits", "gdd")
    heads, r1 = (
        recipe.heads.model_copy(update={"norm_group": GROUP}),
        recipe.r1.model_copy(update={"every": 2}),
    )
    recipe = recipe.model_copy(update={"heads": heads, "r1": r1, "batch": BATCH, "reuse_fakes": False})
    with tempfile.TemporaryDirectory() as folder:
        arch = experiments.config.teachers[recipe.teacher].architecture
        yield random_run(Path(folder), recipe, arch)


def losses(student: Student, steps: int = STEPS) -> list[dict[str, float]]:
    return [dict(student.step()) for _ in range(steps)]


def main(device: str, rank: str, size: str, folder: str) -> None:
    torch.set_num_threads(1)
    place = own_device(device)
    store = dist.FileStore(f"{folder}/store", int(size))
    dist.init_process_group("gloo", store=store, rank=int(rank), world_size=int(size))
    group: Any = dist.new_group(backend="gloo")
    world = World(int(rank), int(size), place, group)
    with small_run() as run:
        found = losses(run.student(BATCH, world))
    if world.main:
        torch.save(found, f"{folder}/losses.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
