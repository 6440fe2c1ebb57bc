"""Vision transformers (arXiv:2010.11929; timm's) as backbones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from gdd.adversary.feature_network import IMAGENET_MEAN, IMAGENET_STD, FeatureNetwork
from gdd.adversary.published_weights import WeightsProblem, fill
from gdd.networks.seeded import seeded_weights

TAPS = (2, 5, 8, 11)  # the blocks, from 0, after which features are taken
CHANNELS = (96, 192, 384, 768)


class VisionTransformerNetwork(FeatureNetwork):
    """The patches' tokens after four blocks, made a pyramid by random, fixed convolutions.

    A transformer keeps one resolution (14x14 for 224 pixels and patches of 16), the discriminator wants four
    (56, 28, 14 and 7), as DPT's reassembly makes them (arXiv:2103.13413, Section 3). Projected GAN leaves
    those convolutions as they are initialised.

    Attention is timm's, which uses PyTorch's fused kernels. They have no second derivative; `r1_penalty`,
    which needs one, chooses the kernel that does.

    Args:
        vit: timm's network, of at least twelve blocks, in float32; what comes after the last tap is cut off.
        seed: of the convolutions, which have PyTorch's default initialisation.
        mean: as in `FeatureNetwork`.
        std: as in `FeatureNetwork`.
    """

    def __init__(
        self,
        vit: nn.Module,
        *,
        seed: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        timms = cast(Any, vit)
        _cut(vit)
        super().__init__(
            vit, CHANNELS, img_channels=3, resolution=timms.patch_embed.img_size[0], mean=mean, std=std
        )
        width = timms.embed_dim
        first, second, third, fourth = CHANNELS
        with seeded_weights(seed):
            self.reassembly = nn.ModuleList(
                [
                    nn.Sequential(nn.Conv2d(width, first, 1), nn.ConvTranspose2d(first, first, 4, stride=4)),
                    nn.Sequential(
                        nn.Conv2d(width, second, 1), nn.ConvTranspose2d(second, second, 2, stride=2)
                    ),
                    nn.Conv2d(width, third, 1),
                    nn.Sequential(
                        nn.Conv2d(width, fourth, 1), nn.Conv2d(fourth, fourth, 3, stride=2, padding=1)
                    ),
                ]
            )
        self.requires_grad_(False)

    def taps(self, prepared: Tensor) -> list[Tensor]:
        """Return features of 96, 192, 384 and 768 channels; class and distillation tokens are left out."""
        # One [B, width, H, W] a tap.
        grids = cast(Any, self.frozen).forward_intermediates(
            prepared, indices=list(TAPS), output_fmt="NCHW", intermediates_only=True
        )
        return [reassemble(grid) for reassemble, grid in zip(self.reassembly, grids, strict=True)]


def deit_base_distilled_patch16_224(state: Mapping[str, Tensor], seed: int) -> VisionTransformerNetwork:
    """Return DeiT-B with its distillation token (arXiv:2012.12877), with the weights of its state dict.

    Raises:
        WeightsProblem: the weights are another network's.
    """
    vit = _empty("deit_base_distilled_patch16_224")
    _cut(vit)
    fill(vit, state, unneeded=("norm.", "head.", "head_dist."))
    return VisionTransformerNetwork(vit, seed=seed, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def vit_base_patch16_224(path: Path, seed: int) -> VisionTransformerNetwork:
    """Return ViT-B/16 of AugReg (arXiv:2106.10270), trained on images in [-1, 1], from its authors' .npz.

    Raises:
        WeightsProblem: the file is damaged or holds something else.
    """
    vit = _empty("vit_base_patch16_224").to_empty(device="cpu")
    for tensor in vit.state_dict().values():
        tensor.fill_(math.nan)  # so that what the file does not fill shows
    load_augreg(vit, path)
    return VisionTransformerNetwork(vit, seed=seed)


def load_augreg(vit: nn.Module, path: Path) -> None:
    """Load an .npz of AugReg or of the first vision transformers, in JAX's names, into timm's network.

    Raises:
        WeightsProblem: the file is damaged, or its network is not exactly this one.
    """
    timms = cast(Any, vit)
    # timm interpolates patches and positions of other sizes, and so would take another network's file.
    expected = {
        "embedding/kernel": (*timms.patch_embed.patch_size, 3, timms.embed_dim),
        "Transformer/posembed_input/pos_embedding": tuple(timms.pos_embed.shape),
    }
    try:
        with np.load(path, allow_pickle=False) as arrays:
            given = {name: arrays[name].shape for name in expected}
        if given == expected:
            timms.load_pretrained(str(path))
    except Exception as error:  # numpy's readers fail in every way on a stream of nonsense
        raise WeightsProblem(
            f"cannot be read as the weights of a vision transformer ({type(error).__name__})"
        ) from None
    wrong = [name for name in expected if given[name] != expected[name]]
    kept = {name: value for name, value in vit.state_dict().items() if not name.startswith("head")}
    wrong += [name for name, value in kept.items() if not value.isfinite().all()]
    if wrong:
        raise WeightsProblem(f"is another network's (the first tensor that differs is '{wrong[0]}')")


def _empty(architecture: str) -> nn.Module:
    """Return timm's network without weights, on the meta device."""
    import timm

    with torch.device("meta"):
        net: nn.Module = timm.create_model(architecture, pretrained=False)
    return net


def _cut(vit: nn.Module) -> None:
    """Remove what comes after the last tap."""
    cast(Any, vit).prune_intermediate_layers(list(TAPS), prune_norm=True, prune_head=True)
