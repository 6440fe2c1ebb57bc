"""The constructor arguments of a U-Net, in the words EDM's published checkpoints use for them."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gdd.config.record import Count, Fraction, NotNegative, Record

ATTENTION_HEAD_CHANNELS = 64  # of ADM (arXiv:2105.05233)


class Architecture(Record):
    """A U-Net of EDM (arXiv:2206.00364, Table 7): DDPM++ and NCSN++ are `SongUNet`, ADM is `DhariwalUNet`."""

    model_type: Literal["SongUNet", "DhariwalUNet"]
    img_resolution: Count  # pixels, images are square
    img_channels: Count = 3
    label_dim: NotNegative = 0  # number of classes; 0 is unconditional
    augment_dim: NotNegative = 0  # entries of the augmentation vector; 0 is none
    model_channels: Count  # the width that the entries of channel_mult multiply
    channel_mult: Annotated[tuple[Count, ...], Field(min_length=1)]  # one entry a level, finest level first
    channel_mult_emb: Count = 4  # width of the embedding over model_channels
    num_blocks: Count | None = None  # residual blocks a level; None is the family's: 4 (SongUNet), 3 (ADM)
    attn_resolutions: tuple[Count, ...] | None = None  # None is the family's: 16 (SongUNet), 32, 16, 8 (ADM)
    dropout: Fraction = 0.0  # of activations inside the blocks, in training mode
    label_dropout: Fraction = 0.0  # of whole class labels, in training mode
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: Count = 1  # width of the noise level's features over model_channels
    encoder_type: Literal["standard", "residual"] = "standard"
    decoder_type: Literal["standard"] = "standard"
    resample_filter: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 1)

    @property
    def blocks_per_level(self) -> int:
        """Residual blocks in each level of the encoder; the decoder has one more."""
        family = 4 if self.model_type == "SongUNet" else 3
        return self.num_blocks or family

    @property
    def attention_resolutions(self) -> tuple[int, ...]:
        """Resolutions, in pixels, whose blocks attend."""
        family = (16,) if self.model_type == "SongUNet" else (32, 16, 8)
        return family if self.attn_resolutions is None else self.attn_resolutions

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.model_channels * factor for factor in self.channel_mult)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Side of the feature maps of each level in pixels, finest first."""
        return tuple(self.img_resolution >> level for level in range(len(self.channel_mult)))

    @property
    def emb_channels(self) -> int:
        """Width of the embedding that every block reads."""
        return self.model_channels * self.channel_mult_emb

    @property
    def noise_features(self) -> int:
        """Number of features of the noise level."""
        return self.model_channels * self.channel_mult_noise

    def attention_heads(self, width: int) -> int:
        """Heads of an attending block of so many channels: one, or ADM's, which has none below 64."""
        return 1 if self.model_type == "SongUNet" else width // ATTENTION_HEAD_CHANNELS

    def for_one_step(self) -> Architecture:
        """Return the architecture of a one-step generator: no augmentation input, no dropout."""
        return self.model_copy(update={"augment_dim": 0, "dropout": 0.0, "label_dropout": 0.0})

    @model_validator(mode="after")
    def _levels_halve(self) -> Architecture:
        coarsest = 2 ** (len(self.channel_mult) - 1)
        if self.img_resolution % coarsest:
            raise ValueError(
                f"img_resolution {self.img_resolution} cannot be halved {len(self.channel_mult) - 1} times; "
                f"give a multiple of {coarsest} or fewer entries in channel_mult"
            )
        return self

    @model_validator(mode="after")
    def _widths_split_into_groups(self) -> Architecture:
        first = self.model_channels if self.model_type == "SongUNet" else self.widths[0]
        joined = [deep + fine for deep, fine in pairwise((first, *self.widths))]
        for channels in (first, *self.widths, *joined, *(2 * width for width in self.widths)):
            if channels < 4 or channels % min(32, channels // 4):
                raise ValueError(
                    f"model_channels {self.model_channels} gives a layer of {channels} channels, which group "
                    "normalisation cannot split; use a multiple of 32, or of 4 for widths up to 64"
                )
        return self

    @model_validator(mode="after")
    def _family_has_the_options(self) -> Architecture:
        if self.model_type == "SongUNet":
            if self.embedding_type == "positional" and self.model_channels * self.channel_mult_noise % 2:
                raise ValueError("a positional embedding needs an even model_channels")
            return self
        for name in ("embedding_type", "channel_mult_noise", "encoder_type", "resample_filter"):
            if self.changes(name):
                raise ValueError(f"{name} is an option of SongUNet; a DhariwalUNet has none, so leave it out")
        sides = (*self.attention_resolutions, self.resolutions[-1])
        for width, side in zip(self.widths, self.resolutions, strict=True):
            heads = self.attention_heads(width)
            if side in sides and heads and width % heads:
                raise ValueError(
                    f"a level of {width} channels attends, but they do not split into {heads} heads; "
                    f"use a multiple of {ATTENTION_HEAD_CHANNELS} there"
                )
        return self
