"""The projected discriminator (arXiv:2111.01007): frozen features, fixed projections, trained heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from gdd.adversary.feature_network import FeatureNetwork
from gdd.adversary.heads import Head, downsampling_head, local_head
from gdd.adversary.projection import RandomProjection
from gdd.errors import UserError
from gdd.randomness import derived_seed

Features = list[list[Tensor]]  # projected, [B, C, H, W] by backbone and tap
HeadKind = Literal["downsampling", "local"]
START_SIZES = (128, 64, 32, 16)
END_SIZE = 8


class MultiScaleHeads(nn.Module):
    """The heads of one backbone, one a tap, shallow to deep."""

    def __init__(self, heads: Sequence[Head]) -> None:
        super().__init__()
        self.mini_discs = nn.ModuleList(heads)

    def forward(self, features: Sequence[Tensor], class_labels: Tensor | None = None) -> Tensor:
        """Return the logits of all heads, [B, n], for projected features [B, C_i, H_i, W_i]."""
        pairs = zip(self.mini_discs, features, strict=True)
        return torch.cat([head(feature, class_labels) for head, feature in pairs], dim=1)


class ProjectedDiscriminator(nn.Module):
    """Backbones, projections and heads, each by the backbone's name.

    Only the heads are trained: they are all that `requires_grad_` switches and `trainable_parameters` gives.
    """

    def __init__(
        self,
        backbones: Mapping[str, FeatureNetwork],
        projections: Mapping[str, RandomProjection],
        heads: Mapping[str, MultiScaleHeads],
    ) -> None:
        super().__init__()
        self.backbones = nn.ModuleDict(backbones)
        self.projections = nn.ModuleDict(projections)
        self.heads = nn.ModuleDict(heads)
        self.requires_grad_(True)

    def extract(self, images: Tensor) -> Features:
        """Return the projected features of images [B, C, H, W] in [-1, 1].

        They depend on no trained weight, so those of one batch of images serve several calls of `logits`.
        """
        return [self.projections[name](backbone(images)) for name, backbone in self.backbones.items()]

    def logits(self, features: Features, class_labels: Tensor | None = None) -> list[Tensor]:
        """Return logits [B, n] per backbone for what `extract` gave; high means real."""
        pairs = zip(self.heads.values(), features, strict=True)
        return [heads(of_backbone, class_labels) for heads, of_backbone in pairs]

    def forward(self, images: Tensor, class_labels: Tensor | None = None) -> list[Tensor]:
        """Return logits [B, n] per backbone for images [B, C, H, W] in [-1, 1].

        `class_labels` are one-hot [B, label_dim] or indices [B]; None for an unconditional discriminator.
        """
        return self.logits(self.extract(images), class_labels)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the heads' parameters."""
        return self.heads.parameters()

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Switch the heads' gradients; backbones and projections never take one."""
        self.backbones.requires_grad_(False)
        self.projections.requires_grad_(False)
        self.heads.requires_grad_(requires_grad)
        return self

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the state of all that is trained or random; the rest of the backbones has its own files."""
        from_files = tuple(f"backbones.{name}.frozen." for name in self.backbones)
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(from_files)}

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `trainable_state` gave, for the same backbones."""
        own, trainable = self.state_dict(), self.trainable_state()
        frozen = {name: tensor for name, tensor in own.items() if name not in trainable}
        self.load_state_dict({**frozen, **state})


def build_discriminator(
    backbones: Mapping[str, FeatureNetwork],
    *,
    head: HeadKind,
    projection_channels: int,
    head_channels: int,
    group: int,
    seed: int,
    label_dim: int = 0,
    embedding: Tensor | None = None,
    start_sizes: Sequence[int] = START_SIZES,
    end_size: int = END_SIZE,
) -> ProjectedDiscriminator:
    """Build a discriminator; every backbone gets random weights of its own, by `seed` and its name.

    Args:
        backbones: by name.
        head: `downsampling` (GDD, StyleGAN-XL) or `local` (tiny images; features are not upsampled).
        projection_channels: of the shallowest projected features (published: 64).
        head_channels: 64 gives the published downsampling heads; the hidden channels of local ones.
        group: images per group of batch norm (GDD's release: 64).
        seed: of projections and heads.
        label_dim: number of classes; 0 is unconditional.
        embedding: [rows >= label_dim, width], from which every head's class embedding starts; None is random.
        start_sizes: nominal sizes at which downsampling heads start, shallow to deep, for every backbone.
        end_size: nominal size at which they end.

    Raises:
        UserError: a backbone does not have a tap for every downsampling head.
    """
    projections, heads = {}, {}
    for name, backbone in backbones.items():
        projections[name] = RandomProjection(
            backbone.channels,
            projection_channels,
            seed=derived_seed(seed, name, "projection"),
            upsampled=head == "downsampling",
        )
        channels = projections[name].out_channels
        if head == "downsampling" and len(start_sizes) != len(channels):
            raise UserError(
                f"The backbone '{name}' gives features at {len(channels)} depths, but heads of the kind "
                f"'downsampling' need {len(start_sizes)}; choose 'local' heads or another backbone."
            )
        made = []
        for tap, count in enumerate(channels):
            options: dict[str, Any] = {
                "head_channels": head_channels,
                "group": group,
                "seed": derived_seed(seed, name, "head", tap),
                "label_dim": label_dim,
                "embedding": embedding,
            }
            made.append(
                local_head(count, **options)
                if head == "local"
                else downsampling_head(count, start_sizes[tap], end_size, **options)
            )
        heads[name] = MultiScaleHeads(made)
    return ProjectedDiscriminator(backbones, projections, heads)
