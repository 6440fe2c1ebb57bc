"""The discriminator's backbones by name: published networks by timm, small ones, the teacher's encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gdd.adversary.feature_network import FeatureNetwork, SmallBackbone, TeacherEncoder, fold_batch_norms
from gdd.adversary.published_weights import WeightsProblem, fill, read_augreg, read_state
from gdd.config.pretrained import BACKBONES
from gdd.config.recipe import TEACHER_ENCODER
from gdd.errors import UserError
from gdd.networks.classifier import load_classifier
from gdd.networks.preconditioning import Denoiser
from gdd.randomness import derived_seed, seeded_weights

STAGES = (1, 2, 3, 4)  # of a convolutional network: the last features of a half (VGG) or a quarter, and so on
BLOCKS = (2, 5, 8, 11)  # of a transformer, from 0
PYRAMID = (96, 192, 384, 768)  # channels that a transformer's tokens are brought to


@dataclass(frozen=True)
class Published:
    """A network as timm has it.

    Args:
        timm: its name and the tag of its weights, which say how images are normalised.
        taps: after which stages or blocks features are taken.
        unused: how the names of the file's tensors begin that come after the last tap.
    """

    timm: str
    taps: tuple[int, ...]
    unused: tuple[str, ...]


# By the names of `gdd.config.pretrained.BACKBONES`, which says where the files are.
PUBLISHED = {
    "vgg16_bn": Published("vgg16_bn.tv_in1k", STAGES, ("classifier.",)),
    "tf_efficientnet_lite0": Published(
        "tf_efficientnet_lite0.in1k", STAGES, ("conv_head.", "bn2.", "classifier.")
    ),
    "tf_efficientnet_b0_ns": Published(
        "tf_efficientnet_b0.ns_jft_in1k", STAGES, ("conv_head.", "bn2.", "classifier.")
    ),
    "deit_base_distilled_patch16_224": Published(
        "deit_base_distilled_patch16_224.fb_in1k", BLOCKS, ("norm.", "head.", "head_dist.")
    ),
    "vit_base_patch16_224": Published(
        "vit_base_patch16_224.augreg_in21k_ft_in1k", BLOCKS, ("norm.", "head.")
    ),
}


def load_backbones(
    names: Sequence[str], files: Mapping[str, Path], teacher: Denoiser, seed: int
) -> dict[str, FeatureNetwork]:
    """Return the frozen feature networks by name, in the order of `names`.

    Args:
        names: published networks, the teacher's own encoder, or any other name for a small classifier.
        files: by name, for all but the teacher's encoder.
        teacher: of the run.
        seed: of the discriminator; what is random in a published backbone depends on it and on the name.

    Raises:
        UserError: a file is not given, missing, broken, or holds something else.
    """
    backbones: dict[str, FeatureNetwork] = {}
    for name in names:
        if name == TEACHER_ENCODER:
            backbones[name] = TeacherEncoder(teacher)
        elif name not in files:
            get = f"run `gdd fetch {BACKBONES[name]}`" if name in BACKBONES else "make it first"
            raise UserError(f"The backbone '{name}' was given no file; {get}.")
        elif name in PUBLISHED:
            backbones[name] = load_published(name, files[name], derived_seed(seed, name, "backbone"))
        else:
            backbones[name] = SmallBackbone(load_classifier(files[name]))
    return backbones


def load_published(name: str, path: Path, seed: int) -> FeatureNetwork:
    """Return a published backbone from its publisher's file, as `gdd fetch` gets it.

    Args:
        name: a key of `PUBLISHED`.
        path: only numbers are read from it.
        seed: of the random convolutions that go with a vision transformer; the others have none.

    Raises:
        UserError: the file cannot be read, or is another network's.
    """
    try:
        state = read_augreg(path, _timm(PUBLISHED[name])) if path.suffix == ".npz" else read_state(path)
        return published_backbone(name, state, seed)
    except WeightsProblem as problem:
        raise UserError(
            f"The file {path} of the backbone '{name}' {problem}; "
            f"delete it and get it anew with `gdd fetch {BACKBONES[name]}`."
        ) from None


def published_backbone(name: str, state: Mapping[str, Tensor], seed: int) -> FeatureNetwork:
    """Return a published backbone with the weights of its publisher's state dict.

    Raises:
        WeightsProblem: the weights are another network's.
    """
    published = PUBLISHED[name]
    net = _timm(published, features_only=True, out_indices=published.taps)
    config = net.pretrained_cfg
    options = {"resolution": config["input_size"][-1], "mean": config["mean"], "std": config["std"]}
    if published.taps == BLOCKS:
        fill(net.model, state, published.unused)
        return TransformerBackbone(net, seed=seed, **options)
    # timm's extractor of a VGG has the layers side by side, the publisher's file has them under `features`.
    state = {key.replace("features.", "features_"): value for key, value in state.items()}
    fill(net, state, published.unused)
    return ConvolutionalBackbone(fold_batch_norms(net), **options)


def _timm(published: Published, **options: Any) -> Any:
    """Return timm's network without weights, on the meta device."""
    import timm  # takes seconds, and only published backbones need it

    with torch.device("meta"):
        return timm.create_model(published.timm, pretrained=False, **options)


class ConvolutionalBackbone(FeatureNetwork):
    """timm's extractor of the features of a convolutional network."""

    def __init__(self, frozen: Any, **options: Any) -> None:
        channels = frozen.feature_info.channels()
        super().__init__(frozen, channels, img_channels=3, channels_last=True, **options)

    def taps(self, prepared: Tensor) -> list[Tensor]:
        """Return the last features of four stages."""
        features: list[Tensor] = self.frozen(prepared)
        return features


class TransformerBackbone(FeatureNetwork):
    """The patches' tokens after four blocks, made a pyramid by random, fixed convolutions.

    A vision transformer (arXiv:2010.11929) keeps one resolution (14x14 for 224 pixels and patches of 16), the
    discriminator wants four (56, 28, 14 and 7), as DPT's reassembly makes them (arXiv:2103.13413, Section 3).
    Projected GAN leaves those convolutions as they are initialised.

    Args:
        frozen: timm's extractor of the tokens, without those of class and distillation.
        seed: of the convolutions, which have PyTorch's default initialisation.
        options: of `FeatureNetwork`.
    """

    def __init__(self, frozen: Any, *, seed: int, **options: Any) -> None:
        super().__init__(frozen, PYRAMID, img_channels=3, **options)
        width = frozen.feature_info.channels()[0]
        first, second, third, fourth = PYRAMID
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
        """Return features of 96, 192, 384 and 768 channels."""
        pairs = zip(self.reassembly, self.frozen(prepared), strict=True)
        return [reassemble(grid) for reassemble, grid in pairs]
