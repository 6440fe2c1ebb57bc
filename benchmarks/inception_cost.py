"""A network of Inception's cost behind the project's extractor, and clocks for what it and others take."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdd.metrics.inception import InceptionExtractor


class Inception(nn.Module):
    """Torchvision's Inception-v3 behind the interface of the published network, at its 299x299."""

    def __init__(self, pool: int) -> None:
        super().__init__()
        if pool == 2048:
            from torchvision.models import Inception3

            whole = Inception3(num_classes=8, aux_logits=False, init_weights=False).eval()
            names = list(dict(whole.named_children()))
            trunk = [
                child for name, child in whole.named_children() if name in names[: names.index("avgpool")]
            ]
        else:
            trunk = [nn.Conv2d(3, pool, 16, stride=16), nn.ReLU()]  # to try the benchmark itself out
        self.layers = nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1))
        self.output = nn.Linear(pool, 1008)

    def forward(
        self,
        img: Tensor,
        return_features: bool = False,
        use_fp16: bool = False,  # noqa: ARG002 - part of the interface
        no_output_bias: bool = False,
    ) -> Tensor:
        x = F.interpolate(img.to(torch.float32), size=(299, 299), mode="bilinear", align_corners=False)
        features = self.layers((x - 128) / 128).flatten(1)
        if return_features:
            return features
        logits = F.linear(features, self.output.weight) if no_output_bias else self.output(features)
        return logits.softmax(dim=1)


def write_network(pool: int, path: Path) -> None:
    """Write the network with random weights as TorchScript."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch advises against TorchScript
        torch.jit.script(Inception(pool).eval()).save(path)


SIDE = 32  # of the images


class Clock:
    """The seconds that some functions take together: of the wall's clock, or of processors."""

    now = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            began = Clock.now()
            found = function(*arguments, **options)
            self.seconds += Clock.now() - began
            return found

        return timed


STATISTICS = {name: Clock() for name in ("moments", "Frechet distance", "neighbours", "Inception Score")}


class Timed:
    """The extractor, with the seconds its network took on some of the images and those it stands for."""

    def __init__(self, inner: InceptionExtractor, every: int) -> None:
        self.every = every
        self.name, self.dimension = inner.name, inner.dimension
        self.sha256, self.definition = inner.sha256, inner.definition
        self.ran, self.stands_for, self.projecting = Clock(), 0.0, Clock()
        self._features = self.ran.wrap(inner)
        self._both = self.ran.wrap(inner.features_and_probabilities)
        self._project = self.projecting.wrap(self._projected)
        draw = torch.Generator().manual_seed(5)
        self._into_features = torch.randn(3 * SIDE**2, self.dimension, generator=draw) / 55
        self._into_classes = torch.randn(self.dimension, 1008, generator=draw) / 45

    def __call__(self, images: Tensor) -> Tensor:
        features: Tensor = self._share(images, self._features)
        return features if self.every == 1 else self._project(images)[0]

    def features_and_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the inner extractor does."""
        both: tuple[Tensor, Tensor] = self._share(images, self._both)
        return both if self.every == 1 else self._project(images)

    def reset(self) -> None:
        """Count from nothing, the statistics too."""
        for clock in STATISTICS.values():
            clock.seconds = 0.0
        self.ran.seconds = self.stands_for = self.projecting.seconds = 0.0

    def _share(self, images: Tensor, run: Callable[[Tensor], Any]) -> Any:
        before, some = self.ran.seconds, images[: -(-len(images) // self.every)]
        found = run(some)
        self.stands_for += (self.ran.seconds - before) * len(images) / len(some)
        return found

    def _projected(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = ((images.flatten(1).float() / 128 - 1) @ self._into_features).relu()
        return features, (features @ self._into_classes).double().softmax(dim=1)
