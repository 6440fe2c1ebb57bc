"""Published networks that need no training here: their names in configuration and their files.

Each name leads to a file of `sources.yaml`.
"""

from __future__ import annotations

# Backbones of the projected discriminator, by timm's or torchvision's name.
BACKBONES = {
    "vgg16_bn": "vgg16-bn",
    "tf_efficientnet_lite0": "tf-efficientnet-lite0",
    "deit_base_distilled_patch16_224": "deit-base-distilled-patch16-224",
    "vit_base_patch16_224": "vit-base-patch16-224",
    "tf_efficientnet_b0_ns": "tf-efficientnet-b0-ns",
}

# Networks that judge.
EXTRACTORS = {"inception": "inception"}
