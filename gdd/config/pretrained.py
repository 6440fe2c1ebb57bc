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

LPIPS = "lpips-vgg16"  # the trunk of LPIPS

# What the class embedding of a conditional discriminator can start from.
CLASS_EMBEDDINGS = {"stylegan-xl": "stylegan-xl-class-embeddings"}

# Networks that judge. Two of them are one file, seen through two resizes.
EXTRACTORS = {
    "inception": "inception",
    "inception-clean": "inception",
    "clip": "clip-vit-b-32",
    "dinov2": "dinov2-vit-l-14",
}
