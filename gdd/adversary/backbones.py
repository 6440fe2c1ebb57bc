"""What the discriminator sees images through (Projected GAN, arXiv:2111.01007): frozen feature networks.

They are published networks by timm, small classifiers made here, and the teacher's own encoder.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gdd.adversary.projections import PYRAMID, OneAGroup, Reassembly
from gdd.adversary.published_weights import WeightsProblem, fill, read_augreg, read_state
from gdd.config.names import BACKBONES, TEACHER_ENCODER
from gdd.config.recipe import BackboneStatistics
from gdd.errors import UserError
from gdd.networks.classifier import SmallClassifier, load_classifier
from gdd.networks.preconditioning import Denoiser, as_labels, denoiser_coefficients
from gdd.networks.unet import UNet
from gdd.randomness import derived_seed

STAGES = (1, 2, 3, 4)  # of a convolutional network: the last features of a half (VGG) or a quarter, and so on
BLOCKS = (2, 5, 8, 11)  # of a transformer, from 0
TEACHER_SIGMA = 0.1  # the images are clean; the lowest noise level that the encoder was much trained on


class Published(NamedTuple):
    """A network as timm has it."""

    timm: str  # its name and the tag of its weights, which say how images are normalised
    taps: tuple[int, ...]  # after which stages or blocks features are taken
    unused: tuple[str, ...]  # how the names of the file's tensors begin that come after the last tap


EFFICIENTNET_HEAD = ("conv_head.", "bn2.", "classifier.")
# By the names of `gdd.config.names.BACKBONES`, which says where the files are.
PUBLISHED = {
    "vgg16_bn": Published("vgg16_bn.tv_in1k", STAGES, ("classifier.",)),
    "tf_efficientnet_lite0": Published("tf_efficientnet_lite0.in1k", STAGES, EFFICIENTNET_HEAD),
    "tf_efficientnet_b0_ns": Published("tf_efficientnet_b0.ns_jft_in1k", STAGES, EFFICIENTNET_HEAD),
    "deit_base_distilled_patch16_224": Published(
        "deit_base_distilled_patch16_224.fb_in1k", BLOCKS, ("norm.", "head.", "head_dist.")
    ),
    "vit_base_patch16_224": Published(
        "vit_base_patch16_224.augreg_in21k_ft_in1k", BLOCKS, ("norm.", "head.")
    ),
}


def load_backbones(
    names: Sequence[str],
    files: Mapping[str, Path],
    teacher: Denoiser,
    seed: int,
    statistics: BackboneStatistics = "published",
    sets: int = 1,
) -> dict[str, Backbone]:
    """Return the frozen feature networks by name, in the order of `names`.

    A name is that of a published network, of the teacher's own encoder (which has no file), or any other for
    a small classifier. `statistics` are those of the published ones' batch norms. What is random in a
    published backbone, in so many `sets`, depends on `seed` and on the name.

    Raises:
        UserError: a file is missing, broken, or another network's, or the images do not fit.
    """
    backbones: dict[str, Backbone] = {}
    for name in names:
        if name == TEACHER_ENCODER:
            backbone: Backbone = TeacherEncoder(teacher)
        elif name in PUBLISHED:
            backbone = load_published(
                name, files[name], derived_seed(seed, name, "backbone"), statistics, sets
            )
        else:
            backbone = SmallBackbone(load_classifier(files[name]))
        if backbone.img_channels != teacher.arch.img_channels:
            raise UserError(
                f"The backbone '{name}' takes images of {backbone.img_channels} channels, the teacher makes "
                f"images of {teacher.arch.img_channels}; choose backbones that fit the data set."
            )
        backbones[name] = backbone
    return backbones


def load_published(
    name: str, path: Path, seed: int, statistics: BackboneStatistics = "published", sets: int = 1
) -> Backbone:
    """Return a published backbone from its publisher's file, of which only numbers are read.

    Raises:
        UserError: the file cannot be read, or is another network's.
    """
    try:
        state = read_augreg(path, _timm(PUBLISHED[name])) if path.suffix == ".npz" else read_state(path)
        return published_backbone(name, state, seed, statistics, sets)
    except WeightsProblem as problem:
        raise UserError(
            f"The file {path} of the backbone '{name}' {problem}; "
            f"delete it and get it anew with `gdd fetch {BACKBONES[name]}`."
        ) from None


def published_backbone(
    name: str,
    state: Mapping[str, Tensor],
    seed: int,
    statistics: BackboneStatistics = "published",
    sets: int = 1,
) -> Backbone:
    """Return a published backbone with the weights of its publisher's state dict.

    `seed` is that of the random convolutions behind a vision transformer, of which there are so many `sets`.

    Raises:
        WeightsProblem: the weights are another network's.
    """
    published = PUBLISHED[name]
    net = _timm(published, features_only=True, out_indices=published.taps)
    config = net.pretrained_cfg
    options = {"resolution": config["input_size"][-1], "mean": config["mean"], "std": config["std"]}
    if published.taps == BLOCKS:
        fill(net.model, state, published.unused)
        return TransformerBackbone(net, seed, sets, **options)
    # timm's extractor of a VGG has the layers side by side, the publisher's file has them under `features`.
    state = {key.replace("features.", "features_"): value for key, value in state.items()}
    fill(net, state, published.unused)
    if statistics == "release":
        net = with_the_releases_statistics(net)
    folded = fold_batch_norms(net)
    return Backbone(folded, net.feature_info.channels(), channels_last=True, **options)


def _timm(published: Published, **options: Any) -> Any:
    """Return timm's network without weights, on the meta device."""
    import timm  # takes seconds, and only published backbones need it

    with torch.device("meta"):
        return timm.create_model(published.timm, pretrained=False, **options)


class Backbone(nn.Module):
    """The interface of every backbone: images in [-1, 1] to features at several depths, the taps.

    It stays in eval mode whatever mode its owner is put into, and its parameters take no gradient; the
    gradient still flows to the images.

    Args:
        frozen: everything with weights from a file; gives the taps, unless a subclass says otherwise. Random
            weights beside it belong to the discriminator's own state.
        channels: of the taps, shallow to deep.
        resolution: to which images are resized (bilinear).
        img_channels: of the images.
        mean: per channel, of images in [0, 1]; the default and that of `std` leave images as they are.
        std: per channel.
        channels_last: whether it computes in that memory format, which suits large convolutions.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        frozen: nn.Module,
        channels: Sequence[int],
        *,
        resolution: int,
        img_channels: int = 3,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.frozen = frozen
        self.channels = tuple(channels)
        self.img_channels = img_channels
        self.resolution = resolution
        self.reassembly: OneAGroup | None = None  # random convolutions behind the taps
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format
        frozen.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        # With u = (x + 1) / 2 in [0, 1]: (u - mean) / std = x / (2 std) + (1/2 - mean) / std.
        means, stds = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
        self.register_buffer("scale", 0.5 / stds, persistent=False)
        self.register_buffer("shift", (0.5 - means) / stds, persistent=False)
        self.eval().requires_grad_(False)

    def taps(self, prepared: Tensor) -> list[Tensor]:
        """Return features [B, C_i, H_i, W_i], shallow to deep, of images as `prepare` makes them."""
        return self.frozen(prepared)

    def prepare(self, images: Tensor) -> Tensor:
        """Normalise and resize images [B, C, H, W] in [-1, 1] to what the backbone was trained on."""
        images = images * self.scale + self.shift
        size = (self.resolution, self.resolution)
        if images.shape[2:] != size:
            images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
        return images.to(memory_format=self.memory_format)

    def forward(self, images: Tensor, groups: Sequence[int] = (0,)) -> list[Tensor]:
        """Return features [B, channels[i], H_i, W_i], shallow to deep, of images [B, C, H, W] in [-1, 1].

        The images are equal shares of the run's `groups`, whose indices choose what is random.
        """
        taps = self.taps(self.prepare(images))
        return taps if self.reassembly is None else self.reassembly(taps, groups)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in eval mode."""
        return super().train(False)


class TransformerBackbone(Backbone):
    """The patches' tokens after four blocks, made a pyramid by random, fixed convolutions.

    A vision transformer (arXiv:2010.11929) keeps one resolution (14x14 for 224 pixels and patches of 16), the
    discriminator wants four (56, 28, 14 and 7).

    `frozen` is timm's extractor of the tokens, without those of class and distillation. There are so many
    `sets` of convolutions, by `seed`.
    """

    def __init__(self, frozen: Any, seed: int, sets: int = 1, **options: Any) -> None:
        super().__init__(frozen, PYRAMID, **options)
        width = frozen.feature_info.channels()[0]
        self.reassembly = OneAGroup(functools.partial(Reassembly, width), sets, seed)


class SmallBackbone(Backbone):
    """The three stages of a small classifier, trained or random (then with calibrated batch norms)."""

    def __init__(self, net: SmallClassifier) -> None:
        stages = fold_batch_norms(copy.deepcopy(net.stages))
        super().__init__(stages, net.channels, img_channels=net.img_channels, resolution=net.img_resolution)

    def taps(self, prepared: Tensor) -> list[Tensor]:
        """Return what each stage makes of the last one's output."""
        taps = []
        for stage in self.frozen.children():
            prepared = stage(prepared)
            taps.append(prepared)
        return taps


class TeacherEncoder(Backbone):
    """The last features of each resolution of a teacher's encoder, fine to coarse.

    Class-conditional teachers are given no class (a zero vector).
    """

    def __init__(self, teacher: Denoiser) -> None:
        arch, model = teacher.arch, copy.deepcopy(teacher.model)
        super().__init__(model, arch.widths, img_channels=arch.img_channels, resolution=arch.img_resolution)
        self.register_buffer("sigma", torch.tensor(TEACHER_SIGMA), persistent=False)
        self.sigma: Tensor
        self.label_dim = arch.label_dim

    def taps(self, prepared: Tensor) -> list[Tensor]:
        """Return the encoder's features, one a resolution."""
        coefficients = denoiser_coefficients(self.sigma)
        labels = prepared.new_zeros(len(prepared), self.label_dim) if self.label_dim else None
        unet = cast(UNet, self.frozen)
        noise_labels = as_labels(coefficients.noise, prepared)
        return unet.encoder_features(coefficients.in_ * prepared, noise_labels, labels)


@torch.no_grad()
def with_the_releases_statistics(net: Any) -> Any:
    """Return a copy whose batch norms' running statistics are moved as by a side effect in GDD's release.

    To count the channels of its backbones, it sends an image of zeros through each in training mode.
    """
    net = copy.deepcopy(net).train()
    net(torch.zeros(1, 3, 256, 256))
    return net.eval()


def fold_batch_norms(net: nn.Module) -> nn.Module:
    """Fold each batch norm that comes right after a convolution into it, in place.

    In eval mode it is an affine map per channel, so the result is the same up to rounding, and saves a pass
    over the activations. Where a batch norm holds an activation (timm's do), that takes its place.
    """
    for parent in list(net.modules()):
        for (before, conv), (name, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent.add_module(before, fuse_conv_bn_eval(conv.eval(), norm.eval()))
                parent.add_module(name, getattr(norm, "act", nn.Identity()))
    for module in net.modules():
        if isinstance(module, nn.ReLU6):  # in place it copies what its backward pass needs
            module.inplace = False
    return net
