"""The augmentation of the discriminator's input that a recipe asks for."""

from __future__ import annotations

from gdd.adversary.adaptive_augment import AdaptiveAugment
from gdd.adversary.adaptive_probability import AdaptiveProbability
from gdd.adversary.augmentation import Augmentation
from gdd.adversary.diff_augment import DiffAugment
from gdd.config.recipe import Augment


def build_augmentation(recipe: Augment, batch: int) -> Augmentation | None:
    """Return the augmentation, or None for `kind: none`.

    Args:
        recipe: which one.
        batch: images in a training step, which decide how fast ADA adapts.
    """
    if recipe.kind == "diffaugment":
        return DiffAugment(recipe.policies)
    if recipe.kind == "ada":
        probability = AdaptiveProbability(batch, target=recipe.target, speed_kimg=recipe.speed_kimg)
        return AdaptiveAugment(probability)
    return None
