"""The discriminator's published backbones with random weights: as this project has them, and as published."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from plain_iteration import PlainBackbone, PlainStages
from torch import Tensor, nn

from gdd.adversary.backbones import Backbone, published_backbone

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGG_STARTS = (0, 13, 23, 33, 43)  # layers of torchvision's `features`
EFFICIENTNET_STARTS = (0, 2, 3, 5, 7)  # groups of timm's blocks


def random_state(shapes: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Return weights that keep a signal's size through ReLUs, and batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, like in shapes.items():
        values = torch.empty(like.shape).normal_(generator=generator)
        if name.endswith("num_batches_tracked"):
            values = torch.zeros_like(like, device="cpu")
        elif name.endswith("running_var"):
            values = values.abs() + 0.5
        elif like.ndim == 1:
            values = 0.1 * values + float(name.endswith("weight"))
        else:
            values *= math.sqrt(2 / math.prod(like.shape[1:]))
        state[name] = values
    return state


def random_backbone(name: str) -> tuple[Backbone, PlainBackbone]:
    """Return the backbone `name` and its plain twin, with the same weights."""
    return {
        "vgg16_bn": _vgg,
        "tf_efficientnet_lite0": _efficientnet,
        "deit_base_distilled_patch16_224": _deit,
    }[name]()


def _vgg() -> tuple[Backbone, PlainBackbone]:
    import torchvision

    with torch.device("meta"):
        net: Any = torchvision.models.vgg16_bn(weights=None, init_weights=False)
    state = random_state(nn.ModuleDict({"features": net.features}).state_dict())
    net.features.load_state_dict(
        {key.removeprefix("features."): value.clone() for key, value in state.items()}, assign=True
    )
    stages = [net.features[start:end] for start, end in itertools.pairwise(VGG_STARTS)]
    return published_backbone("vgg16_bn", state, 0), PlainStages(stages, IMAGENET_MEAN, IMAGENET_STD)


def _efficientnet() -> tuple[Backbone, PlainBackbone]:
    import timm

    net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = random_state(net.state_dict())
    net.load_state_dict(state)
    own = published_backbone("tf_efficientnet_lite0", {key: value.clone() for key, value in state.items()}, 0)
    first, *others = [net.blocks[start:end] for start, end in itertools.pairwise(EFFICIENTNET_STARTS)]
    stages = [nn.Sequential(net.conv_stem, net.bn1, *first), *others]
    return own, PlainStages(stages, [0.5] * 3, [0.5] * 3)


def _deit() -> tuple[Backbone, PlainBackbone]:
    import timm

    with torch.device("meta"):
        net = timm.create_model("deit_base_distilled_patch16_224", pretrained=False)
    # There is nothing to fold or to reorder in a transformer, so both sides have the same.
    own = published_backbone("deit_base_distilled_patch16_224", random_state(net.state_dict()), seed=0)
    return own, copy.deepcopy(own)
