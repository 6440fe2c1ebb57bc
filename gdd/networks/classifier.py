"""Small convolutional classifiers for tiny images: feature networks where no ImageNet weights are needed.

Two architectures, so that what a discriminator sees (`plain`) and what evaluates the result (`residual`)
differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from gdd.config.record import Count, NotNegative, Record, parse
from gdd.config.records import RESIDUAL_FEATURES
from gdd.errors import UserError
from gdd.networks.checkpoint import check_fit, load_weights, save_weights


class SmallClassifier(nn.Module):
    """A classifier of three stages, at the full, half and quarter resolution.

    `plain` is convolution, batch norm, ReLU; its features are the last stage's spatial mean. `residual` has
    pre-activation residual blocks (arXiv:1603.05027); its features are a layer of 64. `width` is that of the
    first stage; the deeper ones are two or four times as wide. Initial weights are PyTorch's defaults.
    """

    def __init__(
        self, architecture: str, width: int, img_channels: int, classes: int, img_resolution: int
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.width = width
        self.img_channels = img_channels
        self.classes = classes
        self.img_resolution = img_resolution
        if architecture == "plain":
            self.channels = (width, 2 * width, 4 * width)
            self.stages = _plain_stages(img_channels, *self.channels)
            self.neck = None
            self.feature_channels = self.channels[-1]
        else:
            self.channels = (width, 2 * width, 2 * width)
            self.stages = _residual_stages(img_channels, *self.channels)
            self.neck = _ResidualNeck(self.channels[-1], RESIDUAL_FEATURES)
            self.feature_channels = RESIDUAL_FEATURES
        self.logits = nn.Linear(self.feature_channels, classes)
        # 1.3 times as fast on the CPU, and faster on GPUs in bfloat16.
        self.to(memory_format=torch.channels_last)

    def taps(self, images: Tensor) -> list[Tensor]:
        """Return what the three stages make of images [B, C, H, W] in [-1, 1], shallow to deep."""
        taps = []
        for stage in self.stages:
            images = stage(images)
            taps.append(images)
        return taps

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate layer [B, feature_channels] for images [B, C, H, W] in [-1, 1]."""
        deepest = self.taps(images)[-1]
        return deepest.mean(dim=(2, 3)) if self.neck is None else self.neck(deepest)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, classes] for images [B, C, H, W] in [-1, 1]."""
        return self.logits(self.features(images))


class _Arguments(Record):
    """Of a classifier's constructor."""

    architecture: Literal["plain", "residual"]
    width: Count
    img_channels: Count
    classes: NotNegative
    img_resolution: Count


def save_classifier(path: str | Path, net: SmallClassifier, **description: Any) -> None:
    """Write a classifier with what `load_classifier` needs to rebuild it; `description` goes beside that."""
    arch = {name: getattr(net, name) for name in _Arguments.model_fields}
    save_weights(path, net.state_dict(), {**description, "kind": "classifier", "arch": arch})


def load_classifier(path: str | Path) -> SmallClassifier:
    """Return a saved classifier in eval mode, none of whose parameters takes a gradient.

    Raises:
        UserError: the file is missing, broken, or holds something else.
    """
    tensors, description = load_weights(path)
    if description.get("kind") != "classifier":
        raise UserError(
            f"{path} holds a '{description.get('kind')}', not a classifier; give a classifier's file."
        )
    with torch.device("meta"):  # no memory for what does not fit
        net = SmallClassifier(**parse(_Arguments, description.get("arch"), path).model_dump())
    check_fit(path, net.state_dict(), tensors)
    net.to_empty(device="cpu").load_state_dict(tensors)
    return net.eval().requires_grad_(False)


def _convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    # No bias: batch norm follows, here or at the start of the next block, and would take it out again.
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


def _plain_stages(img_channels: int, shallow: int, middle: int, deep: int) -> nn.ModuleList:
    def layer(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        return [_convolution(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    return nn.ModuleList(
        [
            nn.Sequential(*layer(img_channels, shallow), *layer(shallow, shallow)),
            nn.Sequential(*layer(shallow, middle, stride=2)),
            nn.Sequential(*layer(middle, deep, stride=2)),
        ]
    )


def _residual_stages(img_channels: int, shallow: int, middle: int, deep: int) -> nn.ModuleList:
    return nn.ModuleList(
        [
            nn.Sequential(_convolution(img_channels, shallow), _ResidualBlock(shallow, shallow, stride=1)),
            _ResidualBlock(shallow, middle, stride=2),
            _ResidualBlock(middle, deep, stride=2),
        ]
    )


class _ResidualBlock(nn.Module):
    """Batch norm, ReLU, convolution, twice, added to the input (arXiv:1603.05027, Fig. 4e)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm0 = nn.BatchNorm2d(inputs)
        self.conv0 = _convolution(inputs, outputs, stride=stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv1 = _convolution(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.skip = None if same else _convolution(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.relu(self.norm0(x))
        hidden = self.conv0(activated)
        hidden = self.conv1(functional.relu(self.norm1(hidden)))
        return hidden + (x if self.skip is None else self.skip(activated))


class _ResidualNeck(nn.Module):
    """Ends the residual stream and keeps four positions, so that features still tell where strokes are."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(4 * inputs, outputs, bias=False)
        self.feature_norm = nn.BatchNorm1d(outputs)  # without it a quarter of the features die in training

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(functional.relu(self.norm(x)), 2)
        return functional.relu(self.feature_norm(self.linear(torch.flatten(x, 1))))
