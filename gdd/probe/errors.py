"""How far the losses and gradients of a step lie from those in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gdd.distill.student import Student
from gdd.probe.plain import Batch, PlainTrainer
from gdd.probe.random_run import RandomRun
from gdd.training.world import CPU, World

IMAGES = 2  # that every order of operations is compared on
ROUNDING, MORE = 3.0, 1e-5  # an error is explained by so many times plain eager's, and so much more

Results = dict[str, Tensor]
Errors = dict[str, float]


class _InFloat64(TorchFunctionMode):
    """Lets networks that go to float32 by themselves go to float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0].double() if func is Tensor.float else func(*args, **(kwargs or {}))


@contextmanager
def products(*, tf32: bool) -> Iterator[None]:
    """Let a GPU round the factors of float32 products to 10 bits, or not."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


class Exact:
    """A step's results in float64, in plain eager on the CPU, and how far others' lie from them."""

    def __init__(self, run: RandomRun, images: int = IMAGES) -> None:
        self.run, self.images = run, images
        student = run.student(images, World(), plain=True, precision="float32")
        trainer = PlainTrainer(student, run.backbones, CPU, torch.float64)
        with _InFloat64():
            self.expected = plain_results(trainer, step_batch(student).to(CPU, torch.float64), twice=False)

    def errors(self, world: World, precision: str, *, tf32: bool = False) -> tuple[Errors, Errors]:
        """Return the relative errors of our step and of plain eager's, by what is compared."""
        with products(tf32=tf32):
            student = self.run.student(self.images, world, plain=True, precision=precision)
            plain = PlainTrainer(student, self.run.backbones, world.device)
            of_plain = self._errors(plain_results(plain, step_batch(student)))
            return self._errors(student_results(student)), of_plain

    def _errors(self, results: Results) -> Errors:
        return {
            name: float((results[name] - expected).norm() / expected.norm())
            for name, expected in self.expected.items()
        }


def explained(ours: Mapping[str, float], plain: Mapping[str, float]) -> bool:
    """Whether plain eager's rounding explains the size of our errors; NaN is not explained."""
    return all(error <= ROUNDING * plain[name] + MORE for name, error in ours.items())


def step_batch(student: Student) -> Batch:
    """Return the images, labels and noise of a student's first step with R1."""
    position = student.recipe.r1.every * student.recipe.batch
    (part,) = student.shares.parts(position, student.images_at_once)
    noises = [
        student.shares.noise(f"{player} noise", part, student.generator.latent_shape)
        for player in ("generator", "discriminator")
    ]
    return Batch(part.images, part.class_labels, *noises)


def plain_results(trainer: PlainTrainer, batch: Batch, *, twice: bool = True) -> Results:
    """Return what a step in plain eager comes to; its R1 is differentiated twice, or as ours."""
    _keep_weights(trainer.optimizer, trainer.discriminator_optimizer)
    with torch.no_grad():
        results = {"generator's images": _vector([trainer.generator(batch.noise, batch.labels)])}
    results["generator's loss"] = _vector([torch.tensor(trainer.generator_step(batch), dtype=torch.float64)])
    results["generator's gradient"] = gradient(trainer.optimizer)
    loss = trainer.discriminator_step(batch)
    results["discriminator's loss"] = _vector([torch.tensor(loss, dtype=torch.float64)])
    results["discriminator's gradient"] = gradient(trainer.discriminator_optimizer)
    trainer.r1_step(batch, twice=twice)
    return {**results, "R1's gradient": gradient(trainer.discriminator_optimizer)}


def student_results(student: Student) -> Results:
    """Make a student's first step with R1, and return what `plain_results` does."""
    optimizers = student.optimizer, student.discriminator_optimizer
    _keep_weights(*optimizers)
    gradients: list[Tensor] = []
    hooks = [of.register_step_pre_hook(lambda of, *_: gradients.append(gradient(of))) for of in optimizers]
    batch = step_batch(student)
    with torch.no_grad():
        images = _vector([student.generator(batch.noise, batch.labels)])
    student.images = student.recipe.r1.every * student.recipe.batch
    scalars = student.step()
    for hook in hooks:
        hook.remove()
    of_generator, of_discriminator, of_r1 = gradients
    losses = {
        f"{player}'s loss": _vector([torch.tensor(scalars[f"loss_{player}"])])
        for player in ("generator", "discriminator")
    }
    return {
        "generator's images": images,
        "generator's gradient": of_generator,
        "discriminator's gradient": of_discriminator,
        "R1's gradient": of_r1,
        **losses,
    }


def _keep_weights(*optimizers: torch.optim.Optimizer) -> None:
    """Let steps change nothing, so that what follows one starts from equal weights."""
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = 0.0


def gradient(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the gradients an optimizer has as one vector in float64 on the CPU."""
    gradients = [parameter.grad for parameter in optimizer.param_groups[0]["params"]]
    return _vector([part for part in gradients if part is not None])


def _vector(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten().double().cpu() for part in parts])
