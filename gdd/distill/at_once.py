"""How many images go through a student's networks at once: the most that fit into a GPU's memory."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gdd.distill.student import Student
from gdd.errors import UserError
from gdd.training.world import World

log = logging.getLogger(__name__)

FULL = 0.92  # of a GPU's memory; the rest is for what the trial does not see, fragmentation above all


def images_at_once(student: Student, wanted: int | None = None) -> int:
    """Return how many images go through the networks at once, the same number in every process.

    On a CPU that is one group. On a GPU the student trains a step, with the whole share of a
    process, half of it, and so on, until the step fits; then it is put back as it was.

    Args:
        student: before its first step.
        wanted: takes the place of the search.

    Raises:
        UserError: not even one group fits, or `wanted` is no multiple of a group.
    """
    layout, world = student.layout, student.world
    if wanted is not None:
        layout.check(wanted)
        return wanted
    if world.device.type == "cpu" or layout.piece == layout.share:
        return layout.piece
    found = most_that_fit(layout.piece, layout.share, lambda count: fits(student, count))
    agreed = min(world.all_gather(found))
    if agreed == 0:
        total = torch.cuda.get_device_properties(world.device).total_memory / 2**30
        raise UserError(
            f"The recipe normalises over groups of {layout.group} images, and a step with {layout.piece} of "
            f"them at once does not fit into this GPU's {total:.0f} GiB; use one with more memory, or more "
            "processes."
        )
    log.info("%d images go through the networks at once.", agreed)
    return agreed


def most_that_fit(piece: int, share: int, try_out: Callable[[int], bool]) -> int:
    """Return the largest of share, share / 2, share / 4, ... in whole pieces that fits; 0 if none does."""
    pieces = share // piece
    while not try_out(pieces * piece):
        if pieces == 1:
            return 0
        pieces = -(-pieces // 2)
    return pieces * piece


def fits(student: Student, count: int) -> bool:
    """Return whether a step with `count` images at once fits into the GPU; the student stays as it is."""
    device = student.world.device
    before = _on_cpu(student.state())  # a second copy on the GPU would take room from the trial
    try:
        rehearse(student, count)
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)  # this process's CUDA itself is among them
        return torch.cuda.max_memory_reserved(device) + others < FULL * total
    except torch.OutOfMemoryError:
        return False
    finally:
        student.load(before)
        if student.discriminator:
            student.discriminator.train()  # a pass that ran out of memory had power iterations switched off
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def rehearse(student: Student, count: int) -> None:
    """Train a step, R1 included, with `count` images at once, in this process alone."""
    world, student.world = student.world, World(device=student.world.device)
    try:
        parts = student.shares.parts(0, count)
        if not student.recipe.reuse_fakes:
            parts = parts[:1]  # fakes that are used again stay in memory for all of a step
        fakes, _ = student.generator_step(parts, {})
        if student.discriminator:
            student.discriminator_step(parts, fakes, {})
            student.r1_step(parts)
    finally:
        student.world = world


def _on_cpu(value: Any) -> Any:
    """Copy every tensor of a nested state to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_cpu(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(inner) for inner in value)
    return value
