"""A student's passes on blank images: to compile them, and to see what memory they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from gdd.distill.shares import Part
from gdd.training.execution import compiled
from gdd.training.world import World

if TYPE_CHECKING:
    from gdd.distill.student import Student


def compile_passes(student: Student, count: int) -> None:
    """Compile, for `count` images at once, what is neither differentiated twice nor changed by a pass."""
    part = _blank(student, count)
    z = student.shares.noise("compiling", part, student.generator.latent_shape)
    student.generate = compiled(student.generator, z, part.class_labels)
    if student.discriminator:
        # In the precision and layout of `Student.extract`, or the first step would compile anew.
        images = part.images.contiguous(memory_format=student.memory_format).requires_grad_(True)
        low = student.recipe.backbone_precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=low):
            student.look = compiled(student.discriminator.extract, images)
    student.optimizer.zero_grad(set_to_none=True)


def rehearse(student: Student, count: int) -> None:
    """Go through a whole step, R1 included, with `count` images at once; it trains on blank images."""
    together, student.world = student.world, World(device=student.world.device)
    try:
        # Reused fakes stay in memory for all of a step.
        times = -(-student.layout.share // count) if student.recipe.reuse_fakes else 1
        parts = [_blank(student, count)] * times
        fakes, _ = student.generator_step(parts, {})
        if student.discriminator:
            student.discriminator_step(parts, fakes, {})
            student.r1_step(parts)
    finally:
        student.world = together
        for optimizer in (student.optimizer, student.discriminator_optimizer):
            if optimizer:
                optimizer.zero_grad(set_to_none=True)


def generator_loss(student: Student, count: int) -> Tensor:
    """Return the generator's loss of `count` images, without an effect on anything that is trained."""
    part = _blank(student, count)
    loss = torch.zeros((), device=student.world.device)
    if student.discriminator:
        student.discriminator.eval()  # no power iteration, and batch norm takes any number of images
        features = student.extract(student.fakes(part, "measuring"), student.look)
        logits = student.discriminator.logits(features, part.class_labels)
        student.discriminator.train()
        loss = loss + torch.cat(logits, dim=1).mean()
    if student.instance:
        (reals,) = part.groups(count)
        loss = loss + student.instance(student.generator, student.average, reals).mean()
    return loss


def _blank(student: Student, count: int) -> Part:
    """Return black images of the first class, to try something out with."""
    arch, device = student.generator.arch, student.world.device
    shape = (arch.img_channels, arch.img_resolution, arch.img_resolution)
    images = torch.zeros(count, *shape, device=device)
    one_hot = None
    if arch.label_dim:
        indices = torch.zeros(count, dtype=torch.int64, device=device)
        one_hot = functional.one_hot(indices, arch.label_dim).float()
    return Part(images, one_hot, 0, 1.0)
