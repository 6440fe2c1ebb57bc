"""Features of the Inception-v3 network of 2015-12-05, on which published FIDs are computed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.functional import linear

from gdd import files
from gdd.errors import UserError
from gdd.metrics.extractors import require_bytes
from gdd.metrics.screening import full_float32

BATCH = 32  # images in one pass, at about 20 MB of activations each; more at once is no faster on a CPU
SCRIPT_ERRORS = (RuntimeError, torch.jit.Error)


class InceptionExtractor:
    """Pool features and class probabilities of a TorchScript network with StyleGAN's calling interface.

    The file is StyleGAN2-ADA's translation of TensorFlow's graph (`inception-2015-12-05.pt`). Called with
    images [B, 3, H, W] in 0..255 of any type, it resizes them itself, the way TensorFlow 1 did, and returns
    the features behind its trunk with `return_features=True`, else probabilities; its last layer is the
    attribute `output`. Clean-fid calls this network in its mode `legacy_tensorflow`.

    The probabilities are those of `no_output_bias=True`, as the Inception Score was first computed
    (Salimans et al., arXiv:1606.03498). They are had from the features and the last layer's weights, so that
    both take one pass through the trunk; that this is what the network itself does is tried out at loading.
    """

    name = "inception"

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        """Load the network and try it on one image.

        Raises:
            UserError: the file is missing, no TorchScript, or a network with another interface.
        """
        self._path = path
        self._device = torch.device(device)
        if not Path(path).is_file():
            self._refuse("does not exist")
        try:
            with warnings.catch_warnings():
                # PyTorch advises against TorchScript, which the published file is.
                warnings.simplefilter("ignore", FutureWarning)
                warnings.simplefilter("ignore", DeprecationWarning)
                self._net: Any = torch.jit.load(str(path), map_location=self._device).eval()
        except (*SCRIPT_ERRORS, ValueError, OSError) as error:
            self._refuse(f"is no TorchScript file ({_sentence(error)})", error)
        self.dimension = self._try_out()
        self.sha256 = files.sha256(path)
        self.definition = (
            f"{self.dimension} pool features of the Inception-v3 network of 2015-12-05, as TorchScript, with "
            "the bilinear resize of TensorFlow 1 inside the network, in float32 without TF32"
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return features [B, D], float32, of uint8 images [B, H, W, C]; grey ones are repeated to RGB.

        Raises:
            UserError: the images have neither one nor three channels.
        """
        require_bytes(images)
        channels = images.shape[3]
        if channels not in {1, 3}:
            raise UserError(f"The Inception network takes grey or RGB images, not {channels} channels.")
        if len(images) == 0:
            return torch.zeros(0, self.dimension, device=self._device)
        with reproducible_float32():
            return torch.cat([self._features(part) for part in images.split(BATCH)])

    @torch.no_grad()
    def features_and_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, D], float32, and class probabilities [B, K], float64; K is 1008.

        Raises:
            UserError: the images have neither one nor three channels.
        """
        features = self(images)
        return features, self._probabilities(features)

    @torch.no_grad()
    def trunk(self, pixels: Tensor) -> Tensor:
        """Return features [B, D] of images [B, 3, 299, 299] that are resized and scaled to [-1, 1] already.

        Raises:
            UserError: the network's trunk cannot be had apart from its resize.
        """
        if not hasattr(self._net, "layers"):
            self._refuse("has another interface than the Inception network (no attribute layers)")
        with reproducible_float32():
            features: Tensor = self._net.layers(pixels.to(self._device))
        return features.flatten(1)

    def _features(self, images: Tensor) -> Tensor:
        pixels = images.to(self._device).expand(-1, -1, -1, 3).permute(0, 3, 1, 2).contiguous()
        features: Tensor = self._net(pixels, return_features=True)
        return features

    def _probabilities(self, features: Tensor) -> Tensor:
        # In float64 because a matrix product in float32 may be TF32, whatever cuDNN is told.
        return linear(features.double(), self._net.output.weight.double()).softmax(dim=1)

    @torch.no_grad()
    def _try_out(self) -> int:
        """Return the number of features after comparing both outputs with the network's own."""
        image = (torch.arange(32 * 32 * 3) * 37 % 256).to(torch.uint8).reshape(1, 32, 32, 3)
        try:
            with reproducible_float32():
                features = self._features(image)
                pixels = image.permute(0, 3, 1, 2).to(self._device)
                expected = self._net(pixels, no_output_bias=True).double()
                difference = (self._probabilities(features) - expected).abs().max()
        except (*SCRIPT_ERRORS, AttributeError, TypeError) as error:
            self._refuse(f"has another interface than the Inception network ({_sentence(error)})", error)
        if features.ndim != 2 or not torch.isfinite(features).all():
            self._refuse(f"gives features of shape {list(features.shape)} that are unusable or no numbers")
        if not difference < 1e-4:
            self._refuse("gives other probabilities than its output layer on its features")
        return features.shape[1]

    def _refuse(self, reason: str, error: Exception | None = None) -> NoReturn:
        raise UserError(
            f"{self._path} {reason}; run `gdd fetch inception` for the network that features need."
        ) from error


@contextmanager
def reproducible_float32() -> Iterator[None]:
    """Let networks compute in float32, and the same for the same images from the first call on."""
    # The profiling executor compiles in the first calls on a GPU and again for new batch sizes, which takes
    # longer than it saves; and cuDNN computes convolutions in TF32 unless told otherwise, matrix products if
    # a variable of NVIDIA's containers or a training with TF32 says so.
    with (
        full_float32(),
        torch.jit.optimized_execution(False),  # type: ignore[attr-defined]
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield


def _sentence(error: Exception) -> str:
    """Return what a TorchScript error says: a sentence of its last line, before which stands a trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split(". ")[0].rstrip(".") if lines else type(error).__name__
