"""The fixed random projection of features (Projected GAN, arXiv:2111.01007, Section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from gdd.randomness import seeded_weights


class RandomProjection(nn.Module):
    """Mixes the taps of one backbone across channels, then across scales; its weights are never trained.

    Tap i is mixed to `channels` * 2^i channels. From the deepest tap on, what comes from below is added, and
    the sum is mixed to half its channels (the shallowest keeps its own) and upsampled.

    Args:
        tap_channels: channels of the taps, shallow to deep.
        channels: of the shallowest output.
        seed: of the weights, which have PyTorch's default initialisation.
        upsampled: whether the outputs are upsampled, as published. If not, each has the size of its own tap
            and only what is passed on to the next shallower level is upsampled: no information is lost, and
            heads that keep the resolution have a quarter of the pixels to go over.
    """

    def __init__(
        self, tap_channels: Sequence[int], channels: int, *, seed: int, upsampled: bool = True
    ) -> None:
        super().__init__()
        self.upsampled = upsampled
        depths = range(len(tap_channels))
        mixed = [channels * 2**depth for depth in depths]
        self.out_channels = tuple(max(channels, count // 2) for count in mixed)
        with seeded_weights(seed):
            for depth in depths:
                self.add_module(f"layer{depth}_ccm", nn.Conv2d(tap_channels[depth], mixed[depth], 1))
            for depth in reversed(depths):
                mixing = nn.ModuleDict({"out_conv": nn.Conv2d(mixed[depth], self.out_channels[depth], 1)})
                self.add_module(f"layer{depth}_csm", mixing)
        self.requires_grad_(False)

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
