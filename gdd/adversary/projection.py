"""The fixed random projection of features (Projected GAN, arXiv:2111.01007, Section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from gdd.adversary.frozen_convolution import frozen_convolution
from gdd.networks.seeded import seeded_weights


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
        if self.upsampled:
            return self._upsampled(taps)
        outputs: list[Tensor] = []
        from_below: Tensor | None = None
        for depth in reversed(range(len(taps))):
            x = self.get_submodule(f"layer{depth}_ccm")(taps[depth])
            if from_below is not None:
                x = x + from_below
            # Mixed before it is upsampled, as in `_upsampled`.
            x = self.get_submodule(f"layer{depth}_csm.out_conv")(x)
            if depth:
                from_below = _enlarge(x, taps[depth - 1].shape[2:])
            outputs.append(x)
        return outputs[::-1]

    def _upsampled(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """Project as published, with what is linear in another order.

        As published, level i gives S_i U(C_i t_i + o_{i+1}), with its tap t, the level below's output o, the
        mixing C across channels and S across scales, and the upsampling U. Interpolation weights sum to one,
        so S_i, bias included, commutes with U, and only has a quarter of the pixels to mix. Then S_i C_i is
        one convolution, from the tap to half the channels. And S_i o_{i+1} is mixed before o was upsampled.
        """
        outputs: list[Tensor] = []
        below: Tensor | None = None
        for depth in reversed(range(len(taps))):
            tap = taps[depth]
            scales, weight, bias = self._mixings(depth)
            x = frozen_convolution(tap, weight, bias)
            if below is not None:
                x = x + _enlarge(frozen_convolution(below, scales, None), tap.shape[2:])
            below = x
            size = taps[depth - 1].shape[2:] if depth else [2 * side for side in tap.shape[2:]]
            outputs.append(_enlarge(x, size))
        return outputs[::-1]

    def _mixings(self, depth: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weight of S_i, and weight and bias of S_i C_i, which costs little beside its use."""
        channels = self.get_submodule(f"layer{depth}_ccm")
        scales = self.get_submodule(f"layer{depth}_csm.out_conv")
        assert isinstance(channels, nn.Conv2d)
        assert isinstance(scales, nn.Conv2d)
        assert channels.bias is not None
        assert scales.bias is not None
        outer = scales.weight.flatten(1).double()  # in which autocast leaves it, too
        weight = outer @ channels.weight.flatten(1).double()
        bias = outer @ channels.bias.double() + scales.bias.double()
        dtype = scales.weight.dtype
        return scales.weight, weight.to(dtype)[:, :, None, None], bias.to(dtype)


def _enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
