"""How fast a setting's step, its generator and its evaluation's network are on this device."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor
from torch.nn import functional

from gdd.config.config import Config
from gdd.config.probed import Products
from gdd.distill.at_once import memory_is_full
from gdd.distill.student import Student
from gdd.metrics.extractors import ClassifierExtractor, PublishedNetwork
from gdd.metrics.sources import Source, open_source
from gdd.networks.checkpoint import load_denoiser, save_network
from gdd.networks.classifier import save_classifier
from gdd.networks.preconditioning import OneStepGenerator
from gdd.probe.errors import products
from gdd.probe.random_run import RandomRun, random_classifier
from gdd.training.log import peak_memory
from gdd.training.world import World

LEAST = 3  # steps, or batches of images, that a rate is taken over


class Speed(NamedTuple):
    """A step with so many images at once; `step` and `r1` in milliseconds, the latter's beside a step's."""

    images_at_once: int
    products: Products
    memory_format: str
    cuda_graphs: bool
    start_seconds: float  # from the networks in the device's memory to the end of the first step and its R1
    step: float
    r1: float
    every: int
    peak_gib: float

    @property
    def images_per_second(self) -> float:
        return 1e3 * self.images_at_once / (self.step + self.r1 / self.every)


class OtherLayout(World):
    """A process whose memory format is the one that does not suit its device."""

    @property
    def memory_format(self) -> torch.memory_format:
        usual = super().memory_format
        return torch.contiguous_format if usual == torch.channels_last else torch.channels_last


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def release(device: torch.device) -> None:
    """Give back the memory of what is gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def speed(
    run: RandomRun, world: World, count: int, *, tf32: bool, seconds: float, graphs: bool = False
) -> Speed | None:
    """Return how fast the recipe's step is with `count` images at once; None where memory is not enough."""
    release(world.device)
    try:
        with products(tf32=tf32):
            return _speed(run.student(count, world, graphs=graphs), world, tf32, seconds)
    except RuntimeError as error:
        if not memory_is_full(error):
            raise
        return None
    finally:
        release(world.device)


def _speed(student: Student, world: World, tf32: bool, seconds: float) -> Speed:
    device, every = world.device, student.recipe.r1.every
    begin = now(device)
    student.step()
    r1_step(student)
    start = now(device) - begin
    if student.graphs:
        r1_step(student)  # in which they are recorded
    step = seconds_of(lambda: ordinary_step(student), device, seconds)
    with_r1 = min(_once(lambda: r1_step(student), device) for _ in range(2))
    return Speed(
        images_at_once=student.images_at_once,
        products="tf32" if tf32 else "float32",
        memory_format=str(world.memory_format).removeprefix("torch."),
        cuda_graphs=bool(student.graphs and student.graphs.recorded),
        start_seconds=start,
        step=1e3 * step,
        r1=1e3 * max(with_r1 - step, 0.0),
        every=every,
        peak_gib=peak_memory() / 2**10,
    )


def ordinary_step(student: Student) -> None:
    """Train a step, one in which R1 is not due."""
    if student.images // student.recipe.batch % student.recipe.r1.every == 0:
        student.images += student.recipe.batch
    student.step()


def r1_step(student: Student) -> None:
    """Train a step in which R1 is due."""
    period = student.recipe.r1.every * student.recipe.batch
    student.images = (student.images // period + 1) * period
    student.step()


def seconds_of(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the mean time of a call over about so many seconds."""
    begin, count = now(device), 0
    while count < LEAST or now(device) - begin < seconds:
        call()
        count += 1
    return (now(device) - begin) / count


def _once(call: Callable[[], object], device: torch.device) -> float:
    begin = now(device)
    call()
    return now(device) - begin


# --- generating and evaluating ----------------------------------------------------------------------------


def random_source(folder: Path, run: RandomRun, device: torch.device) -> Source:
    """Return images of a generator with random weights, as an evaluation makes them."""
    file = folder / "generator.safetensors"
    save_network(file, OneStepGenerator.from_denoiser(load_denoiser(run.inputs.teacher)))
    return open_source(file, device=device)


def images_per_second(
    source: Source, call: Callable[[Tensor], object], device: torch.device, seconds: float
) -> tuple[float, float]:
    """Return images generated in a second, and those that `call`, an extractor, takes."""
    images = source.images(0, source.batch)
    call(images)
    generating = seconds_of(lambda: source.images(0, source.batch), device, seconds)
    evaluating = seconds_of(lambda: call(images), device, seconds)
    return source.batch / generating, source.batch / evaluating


def random_extractor(folder: Path, config: Config, setting: str, device: torch.device) -> tuple[Any, str]:
    """Return a network like the setting's extractor, with random weights, and what it is in words."""
    record = config.settings[setting]
    of = config.features.get(record.evaluation.extractor)
    if of is None:
        return StandIn(device), "timm's Inception-v3, of the size of the one that evaluates"
    arch = config.teachers[record.teacher].architecture
    file = folder / "extractor.safetensors"
    save_classifier(file, random_classifier(arch, of.architecture, of.width), feature_scale=1.0)
    shape = (arch.img_channels, arch.img_resolution, arch.img_resolution)
    return ClassifierExtractor(file, shape, device), "a small classifier"


class StandIn(PublishedNetwork):
    """timm's Inception-v3 with random weights, which takes images as the published networks do."""

    name = "inception"
    dimension = 2048

    def __init__(self, device: torch.device) -> None:
        net = timm.create_model("inception_v3", num_classes=0, aux_logits=False)
        self.device, self._net = device, net.to(device).eval().requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        pixels = images.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        features: Tensor = self._net(functional.interpolate(pixels, size=(299, 299), mode="bilinear"))
        return features
