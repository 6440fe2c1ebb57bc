"""The discriminator of GDD's release in plain torch, and DiffAugment: a second reading of their formulas.

The feature networks are torchvision's and timm's; all that is behind them is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import timm
import torch
import torchvision
from random_weights import published_state
from torch import Tensor, nn
from torch.nn import functional

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

Taps = Callable[[Tensor], list[Tensor]]


def release_network(name: str) -> tuple[Taps, tuple[list[float], list[float]]]:
    """Return a feature network's taps after the release's image of zeros, and its mean and deviation of images."""
    if name == "vgg16_bn":
        net: Any = torchvision.models.vgg16_bn(weights=None, init_weights=False)
        net.classifier = nn.Linear(1, 1)
        slices = [net.features[start:end] for start, end in ((0, 13), (13, 23), (23, 33), (33, 43))]
    else:
        net = timm.create_model(name)
    net.load_state_dict(published_state(name))
    net.train()
    if name == "vgg16_bn":
        net.features(torch.zeros(1, 3, 256, 256))
    elif name == "tf_efficientnet_lite0":
        net(torch.zeros(1, 3, 256, 256))
        blocks = net.blocks
        stem = nn.Sequential(net.conv_stem, net.bn1, blocks[0], blocks[1])
        slices = [stem, blocks[2], nn.Sequential(blocks[3], blocks[4]), nn.Sequential(blocks[5], blocks[6])]
    net.eval().requires_grad_(False)

    def convolutional(x: Tensor) -> list[Tensor]:
        found = []
        for one in slices:
            x = one(x)
            found.append(x.clone())  # the next one may work in place
        return found

    def transformer(x: Tensor) -> list[Tensor]:
        found, side = [], math.isqrt(net.patch_embed.num_patches)
        x = net._pos_embed(net.patch_embed(x))
        for index, block in enumerate(net.blocks):
            block.attn.fused_attn = False  # which cannot be differentiated twice
            x = block(x)
            if index in (2, 5, 8, 11):
                found.append(x[:, 2:].transpose(1, 2).unflatten(2, (side, side)))
        return found

    if name == "tf_efficientnet_lite0":
        return convolutional, ([0.5] * 3, [0.5] * 3)
    return (convolutional if name == "vgg16_bn" else transformer), IMAGENET


class Discriminator:
    """Everything behind the feature networks, by the names of the numbers in `state`."""

    def __init__(
        self, state: Mapping[str, Tensor], trained: Iterable[str], backbones: Iterable[str], side: int
    ) -> None:
        self.side = side  # that feature networks see
        self.numbers = {name: tensor.detach().clone() for name, tensor in state.items()}
        self.trained = {name: self.numbers[name].requires_grad_(True) for name in trained}
        self.networks = {name: release_network(name) for name in backbones}
        self.normalised: dict[str, Tensor] = {}

    def iterate(self) -> None:
        """Make one power iteration of every spectral norm, as a pass in training mode does."""
        self.normalised.clear()
        for name in [name.removesuffix("_orig") for name in self.trained if name.endswith("_orig")]:
            weight, u = self.trained[f"{name}_orig"], self.numbers[f"{name}_u"]
            matrix = weight.flatten(1)
            with torch.no_grad():
                v = matrix.T @ u
                v = v / v.norm()
                u = matrix @ v
                u = u / u.norm()
            self.numbers[f"{name}_u"], self.numbers[f"{name}_v"] = u, v
            self.normalised[name] = weight / (u @ matrix @ v)

    def projected(self, name: str, images: Tensor, process: int) -> list[Tensor]:
        """Return what a process's heads see of images through a feature network."""
        network, (mean, deviation) = self.networks[name]
        x = ((images + 1) / 2 - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
        taps = network(
            functional.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)
        )

        def of(layer: str) -> tuple[Tensor, Tensor]:
            return self.numbers[f"{layer}.weight"], self.numbers[f"{layer}.bias"]

        if "deit" in name:
            own = f"backbones.{name}.reassembly.{process}"
            taps[0] = functional.conv_transpose2d(
                functional.conv2d(taps[0], *of(f"{own}.0.0")), *of(f"{own}.0.1"), stride=4
            )
            taps[1] = functional.conv_transpose2d(
                functional.conv2d(taps[1], *of(f"{own}.1.0")), *of(f"{own}.1.1"), stride=2
            )
            taps[2] = functional.conv2d(taps[2], *of(f"{own}.2"))
            taps[3] = functional.conv2d(taps[3], *of(f"{own}.3.0"))
            taps[3] = functional.conv2d(taps[3], *of(f"{own}.3.1"), stride=2, padding=1)
        own, below = f"projections.{name}.{process}", torch.zeros(())
        for depth in (3, 2, 1, 0):
            x = functional.conv2d(taps[depth], *of(f"{own}.layer{depth}_ccm")) + below
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            taps[depth] = below = functional.conv2d(x, *of(f"{own}.layer{depth}_csm.out_conv"))
        return taps

    def head(self, own: str, blocks: int, x: Tensor, labels: Tensor | None) -> Tensor:
        for block in range(blocks):
            layer = f"{own}.main.{block}.main"
            weight, bias = self.normalised[f"{layer}.0.weight"], self.trained[f"{layer}.0.bias"]
            x = functional.conv2d(x, weight, bias, stride=2, padding=1)
            mean = x.mean(dim=(0, 2, 3), keepdim=True)
            x = (x - mean) / ((x - mean).square().mean(dim=(0, 2, 3), keepdim=True) + 1e-5).sqrt()
            scale, shift = self.trained[f"{layer}.1.weight"], self.trained[f"{layer}.1.bias"]
            x = scale[:, None, None] * x + shift[:, None, None]
            x = torch.where(x > 0, x, 0.2 * x)
        if labels is None:
            return functional.conv2d(x, self.normalised[f"{own}.main.{blocks}.weight"]).flatten(1)
        x = functional.conv2d(x, self.normalised[f"{own}.cls.weight"])
        embedded = labels @ self.trained[f"{own}.embed.weight"]
        embedded = embedded @ self.trained[f"{own}.embed_proj.weight"].T / math.sqrt(320)
        embedded = embedded + self.trained[f"{own}.embed_proj.bias"]
        embedded = torch.where(embedded > 0, embedded, 0.2 * embedded) * math.sqrt(2)
        return (x * embedded[:, :, None, None]).sum(1).flatten(1) / 8

    def __call__(self, images: Tensor, labels: Tensor | None, process: int) -> list[Tensor]:
        """Return a process's logits, by feature network."""
        found = []
        for name in self.networks:
            features = self.projected(name, images, process)
            heads = [
                self.head(f"heads.{name}.mini_discs.{tap}", 4 - tap, feature, labels)
                for tap, feature in enumerate(features)
            ]
            found.append(torch.cat(heads, dim=1))
        return found


def diffaugment(images: Tensor, uniform: Tensor, side: float) -> Tensor:
    """Change images by rows of seven numbers: brightness, contrast, saturation, move x and y, hide at x and y."""
    found = []
    size = images.shape[2]
    most, length = int(size / 8 + 0.5), int(size * side + 0.5)
    for image, u in zip(images, uniform.tolist(), strict=True):
        x = image + u[0] - 0.5
        x = (x - x.mean()) * (u[1] + 0.5) + x.mean()
        x = (x - x.mean(0)) * 2 * u[2] + x.mean(0)
        left, top = (most - (math.floor(one * (2 * most + 1)) - most) for one in u[3:5])
        x = functional.pad(x, (most, most, most, most))[:, top : top + size, left : left + size]
        rows = torch.arange(size)
        across, down = (rows - (math.floor(one * size) - length // 2) for one in u[5:7])
        inside = ((down >= 0) & (down < length))[:, None] & ((across >= 0) & (across < length))
        found.append(torch.where(inside, 0.0, x))
    return torch.stack(found)
