"""Features of CLIP and of DINOv2, computed with timm's vision transformers and the published weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from gdd import files
from gdd.adversary.published_weights import WeightsProblem, fill, read_state
from gdd.config.pretrained import EXTRACTORS
from gdd.errors import UserError
from gdd.metrics.extractors import require_bytes
from gdd.metrics.inception import reproducible_float32
from gdd.metrics.torchscript_archive import read_archive

SIDE = 224
BATCH = 32  # images in one pass
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# OpenAI's names and timm's, in the order in which they are replaced.
CLIP_NAMES = (
    ("visual.", ""),
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("conv1.", "patch_embed.proj."),
    ("transformer.resblocks.", "blocks."),
    ("ln_pre.", "norm_pre."),
    ("ln_post.", "norm."),
    (".ln_", ".norm"),
    ("in_proj_", "qkv."),
    ("out_proj.", "proj."),
    ("c_fc.", "fc1."),
    ("c_proj.", "fc2."),
)


class _Builder(Protocol):
    """Returns timm's network with the weights of a file, or raises WeightsProblem."""

    def __call__(self, path: Path) -> nn.Module: ...


class VisionTransformerExtractor:
    """What a vision transformer says of images that Pillow resized to 224x224 in bytes, bicubically."""

    def __init__(
        self,
        path: str | Path,
        device: torch.device | str,
        build: _Builder,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        path, source = Path(path), EXTRACTORS[self.name]
        if not path.is_file():
            raise UserError(f"{path} does not exist; run `gdd fetch {source}` for what {self.name} needs.")
        try:
            net = build(path)
        except WeightsProblem as problem:
            raise UserError(
                f"The weights {path} of {self.name} {problem}; delete the file and run `gdd fetch {source}`."
            ) from None
        self._device = torch.device(device)
        self._net = net.to(self._device).eval().requires_grad_(False)
        self._mean = torch.tensor(mean, device=self._device).view(3, 1, 1)
        self._std = torch.tensor(std, device=self._device).view(3, 1, 1)
        self.sha256 = files.sha256(path)

    name: str
    dimension: int
    definition: str

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return features [B, D], float32, of uint8 images [B, H, W, C]; grey ones are repeated to RGB.

        Raises:
            UserError: the images have neither one nor three channels.
        """
        require_bytes(images)
        if images.shape[3] not in {1, 3}:
            raise UserError(f"{self.name} takes grey or RGB images, not {images.shape[3]} channels.")
        parts = [self._features(part) for part in images.split(BATCH) if len(part)]
        return torch.cat(parts) if parts else torch.zeros(0, self.dimension, device=self._device)

    def _features(self, images: Tensor) -> Tensor:
        pixels = resize(images).to(self._device).float() / 255
        with reproducible_float32():
            features: Tensor = self._net((pixels - self._mean) / self._std)
        return features


class ClipExtractor(VisionTransformerExtractor):
    """Image embeddings of CLIP ViT-B/32 (arXiv:2103.00020), for CLIP-FID (arXiv:2203.06026).

    The 512 numbers behind the projection, before they are normalised: clean-fid's `clip_vit_b_32` in float32.
    """

    name = "clip"

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        """Read OpenAI's archive; nothing in it is run.

        Raises:
            UserError: the file is missing, damaged, or holds another network.
        """
        super().__init__(path, device, clip_network, CLIP_MEAN, CLIP_STD)
        self.dimension = 512
        self.definition = (
            "512 image features of CLIP ViT-B/32 (OpenAI's weights, not normalised, float32) behind Pillow's "
            "bicubic resize of bytes to 224x224"
        )


class DinoExtractor(VisionTransformerExtractor):
    """Class tokens of DINOv2 ViT-L/14 (arXiv:2304.07193), for FD-DINOv2 (arXiv:2306.04675).

    The network was trained at 518x518, that is with 37x37 positions, and sees 16x16 here. DINOv2's own code
    interpolates its positions by the factor 16.1 / 37 without antialiasing, and that is done here; timm's
    loader takes the factor 16 / 37 with antialiasing instead, which moves every position. What is left of a
    deviation from dgm-eval is rounding: timm's attention is PyTorch's, DINOv2's may be xFormers'.
    """

    name = "dinov2"

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        """Read the published state dict.

        Raises:
            UserError: the file is missing, damaged, or holds another network.
        """
        super().__init__(path, device, dino_network, IMAGENET_MEAN, IMAGENET_STD)
        self.dimension = 1024
        self.definition = (
            "1024 class-token features of DINOv2 ViT-L/14 (no registers, float32) behind Pillow's bicubic "
            "resize of bytes to 224x224, as dgm-eval prepares them"
        )


def resize(images: Tensor) -> Tensor:
    """Return uint8 images [B, H, W, 1 or 3] as uint8 [B, 3, 224, 224], resized by Pillow."""

    def one(image: np.ndarray) -> np.ndarray:
        resized = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return np.asarray(resized)

    rgb = images.expand(-1, -1, -1, 3).cpu().contiguous().numpy()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # Pillow lets go of the interpreter's lock
        resized = np.stack(list(pool.map(one, rgb)))
    return torch.from_numpy(resized).permute(0, 3, 1, 2)


def clip_network(path: Path) -> nn.Module:
    """Return CLIP's image tower with its projection as the head, from OpenAI's TorchScript archive.

    Raises:
        WeightsProblem: the file is damaged or holds something else.
    """
    net = _empty("vit_base_patch32_clip_quickgelu_224", num_classes=512)
    fill(net, clip_weights(read_archive(path, "visual.")), unneeded=())
    return net


def clip_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of OpenAI's image tower under timm's names and in timm's shapes."""
    weights = {}
    for name, tensor in state.items():
        for theirs, timms in CLIP_NAMES:
            name = name.replace(theirs, timms)  # noqa: PLW2901
        if name == "proj":  # [width, 512], to be multiplied from the right
            weights["head.weight"] = tensor.T
            weights["head.bias"] = tensor.new_zeros(tensor.shape[1])
        else:
            leading = {"cls_token": 2, "pos_embed": 1}.get(name, 0)
            weights[name] = tensor[(None,) * leading]
    return weights


def dino_network(path: Path) -> nn.Module:
    """Return DINOv2 ViT-L/14 for images of 224x224, from its published state dict.

    Raises:
        WeightsProblem: the file is damaged or holds something else.
    """
    net = _empty("vit_large_patch14_dinov2", img_size=SIDE, num_classes=0)
    state = read_state(path)
    side = cast(Any, net).patch_embed.grid_size[0]
    if "pos_embed" in state:
        state["pos_embed"] = interpolate_positions(state["pos_embed"].float(), side)
    fill(net, state, unneeded=("mask_token",))  # of training
    return net


def interpolate_positions(positions: Tensor, side: int) -> Tensor:
    """Return positions [1, 1 + N, D] of a square grid for another of `side` x `side`, as DINOv2 does it.

    Its scale factor has 0.1 added to the side, against rounding down, and that is also the factor by which
    it samples. The class token's position, the first, stays.

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


def _empty(architecture: str, **options: Any) -> nn.Module:
    """Return timm's network without weights, on the meta device."""
    import timm

    with torch.device("meta"):
        net: nn.Module = timm.create_model(architecture, pretrained=False, **options)
    return net
