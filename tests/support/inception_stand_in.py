"""A network of the interface of the published Inception, small enough to write and run in a test."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StandIn(nn.Module):
    """The published network's interface: resize and scaling inside, trunk `layers`, last layer `output`."""

    def __init__(self, channels: int, pool: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(pool)
        )
        self.output = nn.Linear(channels * pool * pool, classes)

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        assert img.shape[1] == 3
        x = F.interpolate(img.to(torch.float32), size=(37, 37), mode="bilinear", align_corners=False)
        features = self.layers((x - 128) / 128).flatten(1)
        if return_features:
            return features
        logits = F.linear(features, self.output.weight) if no_output_bias else self.output(features)
        return logits.softmax(dim=1)


def save_script(net: nn.Module, path: Path) -> Path:
    """Write a network as the published one is: TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(net.eval()).save(path)
    return path


def some_images(count: int, size: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    """Return random uint8 images [B, H, W, C]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, channels), dtype=torch.uint8, generator=generator)
