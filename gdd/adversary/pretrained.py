"""Published ImageNet networks as backbones, by name, from their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gdd.adversary.efficientnet import tf_efficientnet_b0_ns, tf_efficientnet_lite0
from gdd.adversary.feature_network import FeatureNetwork
from gdd.adversary.published_weights import WeightsProblem, read_state
from gdd.adversary.vgg import vgg16_bn
from gdd.adversary.vision_transformer import deit_base_distilled_patch16_224, vit_base_patch16_224
from gdd.config.pretrained import BACKBONES
from gdd.errors import UserError

# Only the transformers hold something random: the convolutions behind their taps.
LOADERS: dict[str, Callable[[Path, int], FeatureNetwork]] = {
    "vgg16_bn": lambda path, _: vgg16_bn(read_state(path)),
    "tf_efficientnet_lite0": lambda path, _: tf_efficientnet_lite0(read_state(path)),
    "tf_efficientnet_b0_ns": lambda path, _: tf_efficientnet_b0_ns(read_state(path)),
    "deit_base_distilled_patch16_224": lambda path, seed: deit_base_distilled_patch16_224(
        read_state(path), seed
    ),
    "vit_base_patch16_224": vit_base_patch16_224,
}


def load_pretrained(name: str, path: str | Path, seed: int) -> FeatureNetwork:
    """Return the published backbone `name` (a key of `gdd.config.pretrained.BACKBONES`).

    Args:
        name: timm's or torchvision's.
        path: its publisher's file, as `gdd fetch` gets it. Only numbers are read from it.
        seed: of the random convolutions that go with a vision transformer; the others have none.

    Raises:
        UserError: the file is missing, damaged, or another network's.
    """
    path, source = Path(path), BACKBONES[name]
    if not path.is_file():
        raise UserError(
            f"The backbone '{name}' needs the file {path}, which does not exist; run `gdd fetch {source}`."
        )
    try:
        return LOADERS[name](path, seed)
    except WeightsProblem as problem:
        raise UserError(
            f"The file {path} of the backbone '{name}' {problem}; "
            f"delete it and get it anew with `gdd fetch {source}`."
        ) from None
