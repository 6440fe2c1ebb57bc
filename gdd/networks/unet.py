"""EDM's two U-Nets, with the tensor names of its checkpoints.

`SongUNet` is DDPM++ and NCSN++, `DhariwalUNet` is ADM. The order of the state dict is the order of execution.
Sources: arXiv:2206.00364 (Table 7, Appendix F.1), arXiv:2011.13456 (DDPM++, NCSN++), arXiv:2105.05233 (ADM).
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from gdd.config.architecture import Architecture
from gdd.networks.casting import cast_at_once
from gdd.networks.group_norm import GroupNorm
from gdd.networks.layers import (
    FAMILIES,
    Convolution,
    FourierFeatures,
    Linear,
    ResidualInput,
    UNetBlock,
    apply_all,
    positional_features,
    zeros,
)


def build_unet(arch: Architecture, two_times: bool = False) -> UNet:
    """Return a network of `arch` with fresh weights from PyTorch's global random state.

    With `two_times` it is also given the noise level to reach.
    """
    return (SongUNet if arch.model_type == "SongUNet" else DhariwalUNet)(arch, two_times)


class UNet(nn.Module):
    """What both families share: the way through encoder and decoder."""

    arch: Architecture
    map_target: TargetLevel | None
    enc: nn.ModuleDict
    dec: nn.ModuleDict

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        target_labels: Tensor | None = None,
    ) -> Tensor:
        """Evaluate F of the preconditioned denoiser, in the dtype of x.

        Args:
            x: [B, img_channels, H, W], scaled to unit variance, float32 or bfloat16.
            noise_labels: [B] or [1], c_noise of EDM.
            class_labels: [B, label_dim], one-hot; an unconditional network has no use for them.
            augment_labels: [B, augment_dim]; None is "not augmented".
            target_labels: [B] or [1], c_noise of the level to reach, for a two-time network.
        """
        emb = self.embed(noise_labels, class_labels, augment_labels, target_labels)
        x, skips = self._encode(x, emb)
        params = _params_of_blocks(self.dec, emb, x.dtype)
        with cast_at_once(self.dec, x.dtype):
            for name, module in self.dec.items():
                if "_block" in name:  # `in` and `up` blocks take no skip
                    x = torch.cat([x, skips.pop()], dim=1)
                if isinstance(module, UNetBlock):
                    x = module(x, params[name])
            return self.output(x)

    def encoder_features(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None
    ) -> list[Tensor]:
        """Return the encoder's last output at every resolution, finest first."""
        _, outputs = self._encode(x, self.embed(noise_labels, class_labels))
        return list({output.shape[-1]: output for output in outputs}.values())

    def embed(
        self,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        target_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the embedding [B, emb_channels] that every block reads, in float32."""
        emb = self.condition(self.noise_features(noise_labels.float()), class_labels, augment_labels)
        if self.map_target is not None:
            assert target_labels is not None
            emb = emb + self.map_target(self.noise_features(target_labels.float()))
        return functional.silu(emb)

    @abstractmethod
    def noise_features(self, noise_labels: Tensor) -> Tensor:
        """Return fixed features [B, features] of noise levels [B] given as c_noise of EDM."""

    @abstractmethod
    def condition(self, emb: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """Turn the noise level's features into what the embedding is the SiLU of, [B, emb_channels]."""

    @abstractmethod
    def output(self, x: Tensor) -> Tensor:
        """Turn the decoder's features into [B, img_channels, H, W]."""

    def _encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the coarsest features and every encoder output, finest first."""
        skips: list[Tensor] = []
        residual_input = x
        params = _params_of_blocks(self.enc, emb, x.dtype)
        with cast_at_once(self.enc, x.dtype):
            for name, module in self.enc.items():
                if isinstance(module, ResidualInput):
                    x = (x + module(residual_input)) * math.sqrt(0.5)
                    residual_input = skips[-1] = x
                    continue
                x = module(x, params[name]) if isinstance(module, UNetBlock) else module(x)
                skips.append(x)
        return x, skips

    def _drop_labels(self, class_labels: Tensor | None) -> Tensor:
        assert class_labels is not None
        labels = class_labels.float()
        if self.training and self.arch.label_dropout:
            labels = labels * (torch.rand(len(labels), 1, device=labels.device) >= self.arch.label_dropout)
        return labels


def _params_of_blocks(modules: nn.ModuleDict, emb: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return what each block's affine layer makes of the embedding, by the block's name."""
    layers = {name: module.affine for name, module in modules.items() if isinstance(module, UNetBlock)}
    return dict(zip(layers, apply_all(list(layers.values()), emb, dtype), strict=True))


class SongUNet(UNet):
    """DDPM++ (positional embedding, box filter) or NCSN++ (Fourier features, residual input path)."""

    def __init__(self, arch: Architecture, two_times: bool = False) -> None:
        super().__init__()
        self.arch = arch
        family, features = FAMILIES["SongUNet"], arch.noise_features
        self.map_noise = FourierFeatures(features) if arch.embedding_type == "fourier" else None
        if arch.label_dim:
            self.map_label = Linear(arch.label_dim, features, family.init)
        if arch.augment_dim:
            self.map_augment = Linear(arch.augment_dim, features, family.init, bias=False)
        self.map_layer0 = Linear(features, arch.emb_channels, family.init)
        self.map_layer1 = Linear(arch.emb_channels, arch.emb_channels, family.init)
        self.map_target = TargetLevel(arch) if two_times else None
        self.enc, skip_channels = _encoder(arch, first=arch.model_channels)
        self.dec = _decoder(arch, skip_channels)
        self.last = f"{arch.img_resolution}x{arch.img_resolution}_aux"
        self.dec[f"{self.last}_norm"] = GroupNorm(arch.widths[0], family.eps, silu=True)
        self.dec[f"{self.last}_conv"] = Convolution(arch.widths[0], arch.img_channels, 3, family.last)

    def noise_features(self, noise_labels: Tensor) -> Tensor:
        if self.map_noise is None:
            features = positional_features(noise_labels, self.arch.noise_features, endpoint=True)
        else:
            features = self.map_noise(noise_labels)
        cosines, sines = features.chunk(2, dim=1)
        return torch.cat([sines, cosines], dim=1)

    def condition(self, emb: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        if self.arch.label_dim:
            emb = emb + self.map_label(self._drop_labels(class_labels) * math.sqrt(self.arch.label_dim))
        if self.arch.augment_dim and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.float())
        return self.map_layer1(functional.silu(self.map_layer0(emb)))

    def output(self, x: Tensor) -> Tensor:
        norm, conv = self.dec[f"{self.last}_norm"], self.dec[f"{self.last}_conv"]
        return conv(norm(x))


class DhariwalUNet(UNet):
    """ADM: multi-head attention at several resolutions, the embedding as scale and shift."""

    def __init__(self, arch: Architecture, two_times: bool = False) -> None:
        super().__init__()
        self.arch = arch
        family, features = FAMILIES["DhariwalUNet"], arch.noise_features
        if arch.augment_dim:
            self.map_augment = Linear(arch.augment_dim, features, family.init, bias=False)
        self.map_layer0 = Linear(features, arch.emb_channels, family.init)
        self.map_layer1 = Linear(arch.emb_channels, arch.emb_channels, family.init)
        if arch.label_dim:
            self.map_label = Linear(arch.label_dim, arch.emb_channels, family.init, bias=False)
        self.map_target = TargetLevel(arch) if two_times else None
        self.enc, skip_channels = _encoder(arch, first=arch.widths[0])
        self.dec = _decoder(arch, skip_channels)
        self.out_norm = GroupNorm(arch.widths[0], family.eps, silu=True)
        self.out_conv = Convolution(arch.widths[0], arch.img_channels, 3, family.last)

    def noise_features(self, noise_labels: Tensor) -> Tensor:
        return positional_features(noise_labels, self.arch.noise_features, endpoint=False)

    def condition(self, emb: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        if self.arch.augment_dim and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.float())
        emb = self.map_layer1(functional.silu(self.map_layer0(emb)))
        if self.arch.label_dim:
            emb = emb + self.map_label(self._drop_labels(class_labels))
        return emb

    def output(self, x: Tensor) -> Tensor:
        return self.out_conv(self.out_norm(x))


class TargetLevel(nn.Module):
    """Two layers from the features of the level to reach to what is added to a two-time network's embedding.

    The second starts at zero, so that a network that gets one computes at first what it did without.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.layer0 = Linear(arch.noise_features, arch.emb_channels, FAMILIES[arch.model_type].init)
        self.layer1 = Linear(arch.emb_channels, arch.emb_channels, zeros)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer1(functional.silu(self.layer0(features)))


def _encoder(arch: Architecture, first: int) -> tuple[nn.ModuleDict, list[int]]:
    """Return the encoder and the channels of its outputs; `first` is the first convolution's width."""
    init, taps = FAMILIES[arch.model_type].init, arch.resample_filter
    enc = nn.ModuleDict()
    enc[f"{arch.img_resolution}x{arch.img_resolution}_conv"] = Convolution(arch.img_channels, first, 3, init)
    channels, aux_channels = first, arch.img_channels
    outputs = [channels]
    for side, width in zip(arch.resolutions, arch.widths, strict=True):
        if side != arch.img_resolution:
            enc[f"{side}x{side}_down"] = UNetBlock(arch, channels, channels, "down")
            outputs.append(channels)
            if arch.encoder_type == "residual":
                enc[f"{side}x{side}_aux_residual"] = ResidualInput(aux_channels, channels, init, taps)
                aux_channels = channels
        for index in range(arch.blocks_per_level):
            attention = side in arch.attention_resolutions
            enc[f"{side}x{side}_block{index}"] = UNetBlock(arch, channels, width, attention=attention)
            channels = width
            outputs.append(channels)
    return enc, outputs


def _decoder(arch: Architecture, skip_channels: list[int]) -> nn.ModuleDict:
    dec = nn.ModuleDict()
    channels = skip_channels[-1]
    for side, width in zip(reversed(arch.resolutions), reversed(arch.widths), strict=True):
        if side == arch.resolutions[-1]:
            dec[f"{side}x{side}_in0"] = UNetBlock(arch, channels, channels, attention=True)
            dec[f"{side}x{side}_in1"] = UNetBlock(arch, channels, channels)
        else:
            dec[f"{side}x{side}_up"] = UNetBlock(arch, channels, channels, "up")
        for index in range(arch.blocks_per_level + 1):
            everywhere = FAMILIES[arch.model_type].attends_throughout_decoder
            attends = side in arch.attention_resolutions and (everywhere or index == arch.blocks_per_level)
            inputs = channels + skip_channels.pop()
            dec[f"{side}x{side}_block{index}"] = UNetBlock(arch, inputs, width, attention=attends)
            channels = width
    return dec
