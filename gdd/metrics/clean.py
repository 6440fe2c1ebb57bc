"""Features behind clean-fid's resize, for the "clean" FID (Parmar et al., arXiv:2104.11222)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gdd.errors import UserError
from gdd.metrics.extractors import require_bytes
from gdd.metrics.inception import BATCH, InceptionExtractor

SIDE = 299


class CleanInceptionExtractor:
    """Pool features of the same network as `InceptionExtractor`, past its own resize.

    Every channel is resized to 299x299 as float by Pillow's bicubic filter, which widens where it shrinks,
    is clipped to 0..255 and not rounded; the network's trunk sees (x - 128) / 128. That is clean-fid's mode
    `clean`. Distances on these features are other numbers than the FID that EDM and its successors report,
    by about a point on CIFAR-10.
    """

    name = "inception-clean"

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        """Load the network and try it on one image.

        Raises:
            UserError: as `InceptionExtractor`, or its trunk cannot be had apart from its resize.
        """
        self._network = InceptionExtractor(path, device)
        self._device = torch.device(device)
        self.sha256 = self._network.sha256
        self.dimension = self._network.dimension
        self.definition = (
            f"{self.dimension} pool features of the Inception-v3 network of 2015-12-05, as TorchScript, "
            "behind clean-fid's resize to 299x299 (Pillow's bicubic filter, float channels), in float32 "
            "without TF32; not comparable with FIDs behind the network's own resize"
        )
        # Said now, not after the first images have been generated.
        self(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return features [B, D], float32, of uint8 images [B, H, W, C]; grey ones are repeated to RGB.

        Raises:
            UserError: the images have neither one nor three channels.
        """
        require_bytes(images)
        if images.shape[3] not in {1, 3}:
            raise UserError(
                f"The Inception network takes grey or RGB images, not {images.shape[3]} channels."
            )
        if len(images) == 0:
            return torch.zeros(0, self.dimension, device=self._device)
        parts = [resize(part.to(self._device)) for part in images.split(BATCH)]
        return torch.cat([self._network.trunk((part - 128) / 128) for part in parts])


def resize(images: Tensor) -> Tensor:
    """Return uint8 images [B, H, W, 1 or 3] as float32 [B, 3, 299, 299] in 0..255, as clean-fid does."""
    rows, columns = (_matrix(side).to(images.device) for side in images.shape[1:3])
    pixels = images.permute(0, 3, 1, 2).double()
    resized = (rows @ pixels @ columns.T).clip(0, 255).float()
    return resized.expand(-1, 3, -1, -1)


@lru_cache(maxsize=8)
def _matrix(side: int) -> Tensor:
    """Return Pillow's bicubic resize of `side` pixels to 299 as a matrix [299, side], float64.

    The resize is linear in the pixels and works on rows and columns apart, so that what it makes of the
    unit vectors says all; a matrix product does a batch at once, on any device.
    """
    unit_vectors = Image.fromarray(np.eye(side, dtype=np.float32))
    resized = unit_vectors.resize((side, SIDE), resample=Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).double()
