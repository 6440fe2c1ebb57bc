"""Backbones of the discriminator from their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gdd.adversary.feature_network import FeatureNetwork, SmallBackbone
from gdd.networks.classifier import load_classifier


def load_backbones(files: Mapping[str, str | Path]) -> dict[str, FeatureNetwork]:
    """Return the frozen feature networks by name.

    Raises:
        UserError: a file is missing, broken, or holds something else.
    """
    return {name: SmallBackbone(load_classifier(path)) for name, path in files.items()}
