"""How many images go through a student's networks at once: the most that fit into a GPU's memory."""

from __future__ import annotations

import gc
import io
import logging

import torch

from gdd.distill.student import Student, Sums
from gdd.errors import UserError
from gdd.training.world import World

log = logging.getLogger(__name__)

FULL = 0.92  # of a GPU's memory; the rest is for what a trial does not see, fragmentation above all


def images_at_once(student: Student, wanted: int | None = None) -> int:
    """Return how many images go through the networks at once, the same number in every process.

    On a CPU that is one group. On a GPU the student, before its first step, tries a step with the whole share
    of a process, half of it, and so on, until the step fits. `wanted` takes the place of the search.

    Raises:
        UserError: not even one group fits, or `wanted` is no multiple of a group.
    """
    layout, world = student.layout, student.world
    if wanted is not None:
        layout.check(wanted)
        return wanted
    if world.device.type == "cpu" or layout.piece == layout.share:
        return layout.piece
    pieces = layout.share // layout.piece
    while pieces and not fits(student, pieces * layout.piece):
        pieces = -(-pieces // 2) if pieces > 1 else 0
    agreed = min(world.all_gather(pieces)) * layout.piece
    if agreed == 0:
        total = torch.cuda.get_device_properties(world.device).total_memory / 2**30
        raise UserError(
            f"The recipe normalises over groups of {layout.group} images, and a step with {layout.piece} of "
            f"them at once does not fit into this GPU's {total:.0f} GiB; use one with more memory, or more "
            "processes."
        )
    log.info("%d images go through the networks at once.", agreed)
    return agreed


def memory_is_full(error: RuntimeError) -> bool:
    """Whether an error says that a GPU's memory is full; cuDNN and cuBLAS have words of their own for it."""
    words = ("unable to find an engine", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def fits(student: Student, count: int) -> bool:
    """Train a step, R1 included, with `count` images at once, in this process alone; put the student back.

    Returns whether the GPU's memory was enough.
    """
    before = io.BytesIO()  # a second copy on the GPU would take room from the trial
    torch.save(student.state(), before)
    world, student.world = student.world, World(device=student.world.device)
    torch.cuda.set_per_process_memory_fraction(FULL)
    try:
        parts, scalars = student.shares.parts(0, count), Sums(float)
        if not student.recipe.reuse_fakes:
            parts = parts[:1]  # fakes that are used again stay in memory for all of a step
        fakes, _ = student.generator_step(parts, scalars)
        if student.discriminator:
            student.discriminator_step(parts, fakes, scalars)
            student.r1_step(parts)
        return True
    except RuntimeError as error:
        if not memory_is_full(error):
            raise
        return False
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        student.world = world
        before.seek(0)
        student.load(torch.load(before, map_location="cpu", weights_only=True))
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
