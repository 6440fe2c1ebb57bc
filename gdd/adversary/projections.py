"""What of the discriminator is random and never trained: convolutions behind the frozen networks.

A discriminator has one set of them, or several of which each group of images (those that batch norm sees
together) goes through one. GDD's release has as many as processes, each of which draws its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gdd.randomness import derived_seed, seeded_weights

PYRAMID = (96, 192, 384, 768)  # channels that a transformer's tokens are brought to


class OneAGroup(nn.ModuleList):
    """Sets of random networks of one kind; group k of a run goes through set k modulo their count.

    The first set depends on `seed` alone, the others on their indices besides.
    """

    def __init__(self, make: Callable[[], nn.Module], count: int, seed: int) -> None:
        super().__init__()
        for index in range(count):
            with seeded_weights(derived_seed(seed, index) if index else seed):
                self.append(make())
        self.requires_grad_(False)

    def forward(self, features: Sequence[Tensor], groups: Sequence[int]) -> list[Tensor]:
        """Pass features [B, ...] of images that are equal shares of `groups`, in this order."""
        chosen = [group % len(self) for group in groups]
        if len(set(chosen)) == 1:
            return self[chosen[0]](features)
        shares = zip(*(feature.chunk(len(chosen)) for feature in features), strict=True)
        outputs = [self[index](share) for index, share in zip(chosen, shares, strict=True)]
        return [torch.cat(parts) for parts in zip(*outputs, strict=True)]


class Reassembly(nn.ModuleList):
    """Makes a pyramid of a transformer's four grids of tokens, all of one size.

    As DPT does it (arXiv:2103.13413, Section 3). Projected GAN leaves the convolutions as PyTorch initialises
    them.
    """

    def __init__(self, width: int) -> None:
        first, second, third, fourth = PYRAMID
        super().__init__(
            [
                nn.Sequential(nn.Conv2d(width, first, 1), nn.ConvTranspose2d(first, first, 4, stride=4)),
                nn.Sequential(nn.Conv2d(width, second, 1), nn.ConvTranspose2d(second, second, 2, stride=2)),
                nn.Conv2d(width, third, 1),
                nn.Sequential(nn.Conv2d(width, fourth, 1), nn.Conv2d(fourth, fourth, 3, stride=2, padding=1)),
            ]
        )

    def forward(self, grids: Sequence[Tensor]) -> list[Tensor]:
        """Return features of 96, 192, 384 and 768 channels, at 4, 2, 1 and 1/2 times the grids' size."""
        return [convolutions(grid) for convolutions, grid in zip(self, grids, strict=True)]


class RandomProjection(nn.Module):
    """Mixes the taps of one backbone across channels, then across scales (Section 3.2); never trained.

    Tap i is mixed to `channels` * 2^i channels. From the deepest tap on, what comes from below is added, and
    the sum is mixed to half its channels (the shallowest keeps its own) and upsampled.

    Args:
        tap_channels: channels of the taps, shallow to deep.
        channels: of the shallowest output.
        upsampled: whether the outputs are upsampled, as published. If not, each has the size of its own tap
            and only what is passed on to the next shallower level is upsampled: no information is lost, and
            heads that keep the resolution have a quarter of the pixels to go over.
    """

    def __init__(self, tap_channels: Sequence[int], channels: int, *, upsampled: bool = True) -> None:
        super().__init__()
        self.upsampled = upsampled
        depths = range(len(tap_channels))
        mixed = [channels * 2**depth for depth in depths]
        self.out_channels = tuple(max(channels, count // 2) for count in mixed)
        for depth in depths:
            self.add_module(f"layer{depth}_ccm", nn.Conv2d(tap_channels[depth], mixed[depth], 1))
        for depth in reversed(depths):
            mixing = nn.ModuleDict({"out_conv": nn.Conv2d(mixed[depth], self.out_channels[depth], 1)})
            self.add_module(f"layer{depth}_csm", mixing)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """Project features [B, C_i, H_i, W_i] to [B, out_channels[i], ...], shallow to deep.

        Upsampled outputs have the size of the next shallower tap, the shallowest twice its own tap's size.
        """
        outputs: list[Tensor] = []
        below: Tensor | None = None  # the deeper output, upsampled
        for depth in reversed(range(len(taps))):
            x = self.get_submodule(f"layer{depth}_ccm")(taps[depth])
            if below is not None:
                x = x + below
            # As published, upsampling comes first. Interpolation weights sum to one, so the order does not
            # matter, and before it there is a quarter of the pixels to mix.
            x = self.get_submodule(f"layer{depth}_csm.out_conv")(x)
            outputs.append(x)
            if depth or self.upsampled:
                size = taps[depth - 1].shape[2:] if depth else [2 * side for side in taps[0].shape[2:]]
                below = functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
                if self.upsampled:
                    outputs[-1] = below
        return outputs[::-1]
