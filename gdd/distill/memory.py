"""How many images fit into a device's memory, and how much memory a group needs."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gdd.distill.rehearsal import generator_loss, rehearse
from gdd.errors import UserError

if TYPE_CHECKING:
    from gdd.distill.student import Student

log = logging.getLogger(__name__)

FULL = 0.92  # of a GPU's memory; the rest is for what the trial does not see, fragmentation above all


def choose_images_at_once(student: Student) -> int:
    """Return the most images that go through the student's networks together, in every process.

    Raises:
        UserError: not even one group fits into a GPU's memory.
    """
    layout, world = student.layout, student.world
    if world.device.type == "cpu" or layout.piece == layout.share:
        return layout.piece
    found = most_that_fit(layout.piece, layout.share, lambda count: fits(student, count))
    agreed = world.minimum(found)
    if agreed == 0:
        raise UserError(too_little_memory(student))
    log.info("%d images go through the networks at once.", agreed)
    return agreed


def check_images_at_once(student: Student, count: int) -> None:
    """Check a number of images at once that was given.

    Raises:
        UserError: it is less than a group, or no multiple of it.
    """
    layout = student.layout
    if count < layout.piece:
        need = memory_needed(student, layout.piece) / 2**30
        raise UserError(
            f"{count} images at once are fewer than the {layout.piece} that the recipe normalises over "
            f"together; {layout.piece} at once need about {need:.2g} GiB, so use a device with that much "
            f"memory, or more processes."
        )
    layout.check(count)


def most_that_fit(piece: int, share: int, try_out: Callable[[int], bool]) -> int:
    """Return the largest of share, share / 2, share / 4, ... in whole pieces that fits; 0 if none does."""
    pieces = share // piece
    while not try_out(pieces * piece):
        if pieces == 1:
            return 0
        pieces = -(-pieces // 2)
    return pieces * piece


def fits(student: Student, count: int) -> bool:
    """Return whether a step with R1 goes through with `count` images at once; the student stays as it is."""
    before = copy.deepcopy(student.state())
    try:
        rehearse(student, count)
        device = student.world.device
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)  # this process's CUDA itself is among them
        return torch.cuda.max_memory_reserved(device) + others < FULL * total
    except torch.OutOfMemoryError:
        return False
    finally:
        student.load(before)
        del before
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(student.world.device)


def too_little_memory(student: Student) -> str:
    """Return the sentence that refuses a device on which not even one group fits."""
    need = memory_needed(student, student.layout.piece) / 2**30
    return (
        f"The recipe normalises over groups of {student.layout.group} images, and {student.layout.piece} of "
        f"them at once need about {need:.2g} GiB, which this device has not; use one with more memory, "
        f"or more processes."
    )


def memory_needed(student: Student, images: int, probe: int = 2) -> int:
    """Return about how many bytes training takes with `images` at once, from a pass over `probe` images.

    Weights, gradients, Adam's moments and what the generator's backward pass keeps; kernels need room
    besides. The student stays as it is.
    """
    with torch.no_grad():
        generator_loss(student, probe)  # networks make what they keep for themselves in their first pass
    networks = [student.generator, student.average, student.discriminator]
    tensors = [t for net in networks if net for t in (*net.parameters(), *net.buffers())]
    fixed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    heads = list(student.discriminator.trainable_parameters()) if student.discriminator else []
    trained = sum(p.numel() * p.element_size() for p in (*student.trainable, *heads))
    kept = _saved_bytes(lambda: generator_loss(student, probe), known={t.data_ptr() for t in tensors})
    return fixed + 3 * trained + kept * images // probe


def _saved_bytes(forward: Callable[[], Any], known: set[int]) -> int:
    """Return the bytes of the distinct tensors, but the `known` ones, that a forward pass keeps."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = forward()
    total = sum(sizes.values())
    del result
    return total
