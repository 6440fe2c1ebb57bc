"""The projected discriminator (arXiv:2111.01007): frozen features, random projections, trained heads."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from gdd.adversary.backbones import Backbone
from gdd.adversary.heads import Head, downsampling_head, local_head
from gdd.adversary.projections import OneAGroup, RandomProjection
from gdd.config.recipe import Heads
from gdd.errors import UserError
from gdd.randomness import derived_seed, seeded_weights

Features = list[list[Tensor]]  # projected, [B, C, H, W] by backbone and tap
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
    """Backbones, projections and heads, each by the backbone's name. Only the heads take gradients."""

    def __init__(
        self,
        backbones: Mapping[str, Backbone],
        projections: Mapping[str, OneAGroup],
        heads: Mapping[str, MultiScaleHeads],
    ) -> None:
        super().__init__()
        self.backbones = nn.ModuleDict(backbones)
        self.projections = nn.ModuleDict(projections)
        self.heads = nn.ModuleDict(heads)

    def extract(self, images: Tensor, groups: Sequence[int] = (0,)) -> Features:
        """Return the projected features of images [B, C, H, W] in [-1, 1].

        They depend on no trained weight, so those of one batch of images serve several calls of `logits`. The
        images are equal shares of the run's `groups`, whose indices choose the projections.
        """
        pairs = self.backbones.items()
        return [self.projections[name](backbone(images, groups), groups) for name, backbone in pairs]

    def logits(self, features: Features, class_labels: Tensor | None = None) -> list[Tensor]:
        """Return logits [B, n] per backbone for what `extract` gave; high means real.

        `class_labels` are one-hot, [B, label_dim]; None for an unconditional discriminator.
        """
        pairs = zip(self.heads.values(), features, strict=True)
        return [heads(of_backbone, class_labels) for heads, of_backbone in pairs]

    def forward(
        self, images: Tensor, class_labels: Tensor | None = None, groups: Sequence[int] = (0,)
    ) -> list[Tensor]:
        """Return the logits of images [B, C, H, W] in [-1, 1]."""
        return self.logits(self.extract(images, groups), class_labels)

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
    backbones: Mapping[str, Backbone],
    recipe: Heads,
    seed: int,
    label_dim: int = 0,
    embedding: Tensor | None = None,
    *,
    start_sizes: Sequence[int] = START_SIZES,
    end_size: int = END_SIZE,
) -> ProjectedDiscriminator:
    """Build a discriminator; every backbone gets random weights of its own, by `seed` and its name.

    Args:
        backbones: by name.
        recipe: which heads, and how wide.
        seed: of projections and heads.
        label_dim: number of classes; 0 is unconditional.
        embedding: [rows >= label_dim, width], from which every head's class embedding starts; None is random.
        start_sizes: nominal sizes at which downsampling heads start, shallow to deep.
        end_size: nominal size at which they end.

    Raises:
        UserError: a backbone does not have a tap for every downsampling head.
    """
    downsampling = recipe.kind == "downsampling"
    projections, heads = {}, {}
    for name, backbone in backbones.items():
        projection = functools.partial(
            RandomProjection, backbone.channels, recipe.projection_channels, upsampled=downsampling
        )
        of_projections = derived_seed(seed, name, "projection")
        projections[name] = OneAGroup(projection, recipe.projections, of_projections)
        channels = cast(RandomProjection, projections[name][0]).out_channels
        if downsampling and len(start_sizes) != len(channels):
            raise UserError(
                f"The backbone '{name}' gives features at {len(channels)} depths, but heads of the kind "
                f"'downsampling' need {len(start_sizes)}; choose 'local' heads or another backbone."
            )
        of_taps = []
        for tap, count in enumerate(channels):
            with seeded_weights(derived_seed(seed, name, "head", tap)):
                of_taps.append(
                    downsampling_head(recipe, count, start_sizes[tap], end_size, label_dim, embedding)
                    if downsampling
                    else local_head(recipe, count, label_dim, embedding)
                )
        heads[name] = MultiScaleHeads(of_taps)
    return ProjectedDiscriminator(backbones, projections, heads)
