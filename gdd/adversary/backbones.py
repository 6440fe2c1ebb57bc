"""Backbones of the discriminator from their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gdd.adversary.feature_network import FeatureNetwork, SmallBackbone
from gdd.adversary.pretrained import load_pretrained
from gdd.adversary.teacher_encoder import TeacherEncoder
from gdd.config.pretrained import BACKBONES
from gdd.config.recipe import TEACHER_ENCODER
from gdd.errors import UserError
from gdd.networks.classifier import load_classifier
from gdd.networks.preconditioning import Denoiser
from gdd.networks.seeded import derived_seed


def load_backbones(
    names: Sequence[str], files: Mapping[str, Path], teacher: Denoiser, seed: int
) -> dict[str, FeatureNetwork]:
    """Return the frozen feature networks by name, in the order of `names`.

    Args:
        names: published networks (keys of `gdd.config.pretrained.BACKBONES`), the teacher's own encoder, or
            any other name for a small classifier.
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
            raise UserError(f"The backbone '{name}' was given no file; {_where_to_get(name)}.")
        elif name in BACKBONES:
            backbones[name] = load_pretrained(name, files[name], derived_seed(seed, name, "backbone"))
        else:
            backbones[name] = SmallBackbone(load_classifier(files[name]))
    return backbones


def _where_to_get(name: str) -> str:
    if name in BACKBONES:
        return f"run `gdd fetch {BACKBONES[name]}` and pass what it gets"
    return f"pass --backbone {name}.safetensors"
