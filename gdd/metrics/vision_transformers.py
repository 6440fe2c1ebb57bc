"""Features of CLIP and of DINOv2 by timm's vision transformers, with the weights their authors published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor
from torch.nn import functional

from gdd.adversary.published_weights import WeightsProblem, fill, read_state
from gdd.config.names import EXTRACTORS
from gdd.errors import UserError
from gdd.foreign.read import read_foreign
from gdd.metrics.extractors import PublishedNetwork, each
from gdd.training.world import to_device

SIDE = 224


class VisionTransformer(PublishedNetwork):
    """A vision transformer's output for images that Pillow resized to 224x224 in bytes, bicubically.

    Nothing in its file is run.

    Raises:
        UserError: the file is missing, damaged, or holds another network.
    """

    architecture: str  # timm's name
    options: dict[str, Any]
    patches: str  # the name in the file of the layer that embeds patches
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        super().__init__(path, device)
        with torch.device("meta"):
            net: Any = timm.create_model(self.architecture, pretrained=False, **self.options)
        try:
            state = self.state(Path(path))
            kernel = state.get(self.patches)
            if kernel is None or kernel.shape != net.patch_embed.proj.weight.shape:
                raise WeightsProblem("is another network's")  # timm would resample it
            fill(net, checkpoint_filter_fn(state, net), unneeded=())
        except WeightsProblem as problem:
            raise UserError(
                f"The weights {path} of {self.name} {problem}; "
                f"delete the file and run `gdd fetch {EXTRACTORS[self.name]}`."
            ) from None
        self._net = net.to(self.device).eval().requires_grad_(False)

    def state(self, path: Path) -> dict[str, Tensor]:
        """Return the weights by their published names; raise a WeightsProblem for another file."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        pixels = each(images, _resize, self.device).float() / 255
        mean, std = (to_device(torch.tensor(of), self.device).view(3, 1, 1) for of in (self.mean, self.std))
        features: Tensor = self._net((pixels - mean) / std)
        return features


class ClipExtractor(VisionTransformer):
    """Image embeddings of CLIP ViT-B/32 (arXiv:2103.00020), for CLIP-FID (arXiv:2203.06026).

    The 512 numbers behind the projection, before they are normalised: clean-fid's `clip_vit_b_32` in float32.
    """

    name = "clip"
    dimension = 512
    definition = (
        "512 image features of CLIP ViT-B/32 (OpenAI's weights, not normalised, float32) behind Pillow's "
        "bicubic resize of bytes to 224x224"
    )
    architecture = "vit_base_patch32_clip_quickgelu_224"
    options = {"num_classes": dimension}
    patches = "visual.conv1.weight"
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def state(self, path: Path) -> dict[str, Tensor]:
        try:
            return read_foreign(path, "archive", "visual.")[1]
        except UserError as error:
            raise WeightsProblem(f"cannot be read ({str(error).rstrip('.')})") from None


class DinoExtractor(VisionTransformer):
    """Class tokens of DINOv2 ViT-L/14 (arXiv:2304.07193), for FD-DINOv2 (arXiv:2306.04675).

    They differ from dgm-eval's by rounding: timm's attention is PyTorch's, DINOv2's may be xFormers'.
    """

    name = "dinov2"
    dimension = 1024
    definition = (
        "1024 class-token features of DINOv2 ViT-L/14 (no registers, float32) behind Pillow's bicubic "
        "resize of bytes to 224x224, as dgm-eval prepares them"
    )
    architecture = "vit_large_patch14_dinov2"
    options = {"num_classes": 0, "img_size": SIDE}
    patches = "patch_embed.proj.weight"
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def state(self, path: Path) -> dict[str, Tensor]:
        state = read_state(path)
        if "pos_embed" in state:
            state["pos_embed"] = interpolate_positions(state["pos_embed"].float(), SIDE // 14)
        return state


def interpolate_positions(positions: Tensor, side: int) -> Tensor:
    """Return positions [1, 1 + N, D] of a square grid for another of `side` x `side`, as DINOv2 does it.

    The network was trained at 518x518, with 37x37 positions, and sees 16x16 here. DINOv2's code adds 0.1 to
    the side, against rounding down, and samples by the factor that this gives, 16.1 / 37, without
    antialiasing; timm's loader would take 16 / 37 with antialiasing, which moves every position. The class
    token's position, the first, stays.

    Raises:
        WeightsProblem: the positions are of no square grid.
    """
    class_token, grid = positions[:, :1], positions[:, 1:]
    old = round(grid.shape[1] ** 0.5)
    if old**2 != grid.shape[1]:
        raise WeightsProblem("is another network's (its positions are those of no square)")
    if old == side:
        return positions
    planes = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    factor = (side + 0.1) / old
    resized = functional.interpolate(planes, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([class_token, resized.flatten(2).transpose(1, 2)], dim=1)


def _resize(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
