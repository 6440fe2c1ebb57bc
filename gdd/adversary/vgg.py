"""VGG16 with batch norm (arXiv:1409.1556; torchvision's) as a backbone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gdd.adversary.feature_network import IMAGENET_MEAN, IMAGENET_STD, StagedNetwork, folded
from gdd.adversary.published_weights import fill

# Stage i is layers [STARTS[i], STARTS[i + 1]) of torchvision's `features`: from the second on, a pooling and
# what follows up to the next one. So taps are taken before a pooling, and the last pooling is left out.
STARTS = (0, 13, 23, 33, 43)


def vgg16_bn(state: Mapping[str, Tensor]) -> StagedNetwork:
    """Return the network with the weights of torchvision's state dict, batch norms folded.

    At 224 pixels its taps are 128, 256, 512 and 512 channels of 112, 56, 28 and 14 pixels.

    Raises:
        WeightsProblem: the weights are not VGG16's.
    """
    import torchvision

    with torch.device("meta"):
        features = torchvision.models.vgg16_bn(weights=None, init_weights=False).features[: STARTS[-1]]
    fill(nn.ModuleDict({"features": features}), state, unneeded=("classifier.",))
    stages = [features[start:end] for start, end in itertools.pairwise(STARTS)]
    return StagedNetwork(
        nn.ModuleList(folded(stage) for stage in stages),
        (128, 256, 512, 512),
        img_channels=3,
        resolution=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        channels_last=True,
    )
