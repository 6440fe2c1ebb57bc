"""EfficientNets (arXiv:1905.11946; timm's ports of the TensorFlow ones) as backbones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gdd.adversary.feature_network import IMAGENET_MEAN, IMAGENET_STD, StagedNetwork
from gdd.adversary.published_weights import fill

# Stage i is groups [STARTS[i], STARTS[i + 1]) of timm's seven groups of blocks; the stem goes with the first
# (Projected GAN's grouping).
STARTS = (0, 2, 3, 5, 7)


def tf_efficientnet_lite0(state: Mapping[str, Tensor]) -> StagedNetwork:
    """Return EfficientNet-lite0, trained on images in [-1, 1], with the weights of timm's state dict.

    At 224 pixels its taps are 24, 40, 112 and 320 channels of 56, 28, 14 and 7 pixels.

    Raises:
        WeightsProblem: the weights are another network's.
    """
    return StagedNetwork(
        _stages("tf_efficientnet_lite0", state),
        (24, 40, 112, 320),
        img_channels=3,
        resolution=224,
        channels_last=True,
    )


def tf_efficientnet_b0_ns(state: Mapping[str, Tensor]) -> StagedNetwork:
    """Return EfficientNet-B0 of Noisy Student (arXiv:1911.04252); its taps are those of lite0.

    Raises:
        WeightsProblem: the weights are another network's.
    """
    return StagedNetwork(
        _stages("tf_efficientnet_b0", state),
        (24, 40, 112, 320),
        img_channels=3,
        resolution=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        channels_last=True,
    )


def _stages(architecture: str, state: Mapping[str, Tensor]) -> nn.ModuleList:
    """Return the four stages of timm's `architecture`, batch norms folded."""
    import timm

    with torch.device("meta"):
        net: Any = timm.create_model(architecture, pretrained=False)
    kept = nn.ModuleDict({"conv_stem": net.conv_stem, "bn1": net.bn1, "blocks": net.blocks})
    fill(kept, state, unneeded=("conv_head.", "bn2.", "classifier."))
    kept.eval()
    _fold(kept)
    first, *others = [net.blocks[start:end] for start, end in itertools.pairwise(STARTS)]
    return nn.ModuleList([nn.Sequential(kept["conv_stem"], kept["bn1"], *first), *others])


def _fold(net: nn.Module) -> None:
    """Fold each batch norm into the convolution before it, in place; its activation takes its place.

    In timm's blocks a batch norm stands right after its convolution, and holds the activation after it.
    """
    for parent in list(net.modules()):
        for (before, conv), (name, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent.add_module(before, fuse_conv_bn_eval(conv, norm))
                parent.add_module(name, norm.get_submodule("act"))
