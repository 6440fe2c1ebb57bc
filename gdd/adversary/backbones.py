"""Backbones of the discriminator from their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gdd.adversary.feature_network import FeatureNetwork, SmallBackbone
from gdd.adversary.teacher_encoder import TeacherEncoder
from gdd.config.recipe import TEACHER_ENCODER
from gdd.errors import UserError
from gdd.networks.classifier import load_classifier
from gdd.networks.preconditioning import Denoiser


def load_backbones(
    names: Sequence[str], files: Mapping[str, Path], teacher: Denoiser
) -> dict[str, FeatureNetwork]:
    """Return the frozen feature networks by name, in the order of `names`.

    Raises:
        UserError: a file is not given, missing, broken, or holds something else.
    """
    backbones: dict[str, FeatureNetwork] = {}
    for name in names:
        if name == TEACHER_ENCODER:
            backbones[name] = TeacherEncoder(teacher)
        elif name in files:
            backbones[name] = SmallBackbone(load_classifier(files[name]))
        else:
            raise UserError(f"The backbone '{name}' was given no file; pass --backbone {name}.safetensors.")
    return backbones
