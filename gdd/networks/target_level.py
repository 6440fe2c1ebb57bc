"""What a two-time network is told besides its noise level: the level it is to reach."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from gdd.config.architecture import Architecture
from gdd.networks.block import Family
from gdd.networks.layers import Linear, zeros


class TargetLevel(nn.Module):
    """Two layers from the features of the target level to what is added to the network's embedding.

    The second layer starts at zero, so that a network that gets one computes at first what it did without.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        family = Family.of(arch)
        self.layer0 = Linear(arch.model_channels * arch.channel_mult_noise, family.emb_channels, family.init)
        self.layer1 = Linear(family.emb_channels, family.emb_channels, zeros)

    def forward(self, features: Tensor) -> Tensor:
        """[B, features], those of a noise level -> [B, emb_channels]."""
        return self.layer1(functional.silu(self.layer0(features)))
