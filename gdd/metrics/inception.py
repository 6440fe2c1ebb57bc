"""Features of the Inception-v3 network of 2015-12-05, behind two resizes, and the Inception Score.

The file is StyleGAN2-ADA's translation of TensorFlow's graph to TorchScript, which clean-fid reads as well.
TorchScript is code: it is loaded from a file of known SHA-256 only.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cleanfid.resize import build_resizer
from torch import Tensor
from torch.nn.functional import linear

from gdd.errors import UserError
from gdd.metrics.extractors import PublishedNetwork, each


class InceptionExtractor(PublishedNetwork):
    """Pool features behind the resize in the network, which is TensorFlow 1's: EDM's and ADM's FID.

    This is clean-fid's mode `legacy_tensorflow`.

    Raises:
        UserError: the file is missing, not `trusted` (a SHA-256), no TorchScript, or a network with another
            interface.
    """

    name = "inception"
    behind = "with the bilinear resize of TensorFlow 1 inside the network, in float32 without TF32"

    def __init__(
        self, path: str | Path, device: torch.device | str = "cpu", trusted: Collection[str] = ()
    ) -> None:
        super().__init__(path, device)
        content = Path(path).read_bytes()  # what is hashed is what is run
        found = hashlib.sha256(content).hexdigest()
        if found not in trusted:
            raise UserError(
                f"{path} is code (TorchScript) that is not run, because no `checksum` of sources.yaml is its "
                f"SHA-256, {found}; run `gdd fetch inception`, or if you trust the file, write that there or "
                "give it as --trust-sha256."
            )
        try:
            with warnings.catch_warnings():
                # PyTorch advises against TorchScript, which the published file is.
                warnings.simplefilter("ignore")
                self._net: Any = torch.jit.load(io.BytesIO(content), map_location=self.device).eval()
            features = self(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
            self.probabilities(features)
        except (RuntimeError, torch.jit.Error, AttributeError, TypeError, ValueError, OSError) as error:
            raise UserError(
                f"{path} is not the Inception network that features need ({_sentence(error)}); "
                "run `gdd fetch inception`."
            ) from error
        self.dimension = features.shape[1]
        self.definition = (
            f"{self.dimension} pool features of the Inception-v3 network of 2015-12-05, as TorchScript, "
            f"{self.behind}"
        )

    def features(self, images: Tensor) -> Tensor:
        pixels = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
        features: Tensor = self._net(pixels, return_features=True)
        return features

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> Tensor:
        """Return class probabilities [B, 1008], float64, of features, without the last layer's bias.

        That is how the Inception Score was first computed (Salimans et al., arXiv:1606.03498).
        """
        # In float64 because a matrix product in float32 may be TF32, whatever cuDNN's flags.
        weight: Tensor = self._net.output.weight.double()
        return linear(features.to(weight), weight).softmax(dim=1)


class CleanInceptionExtractor(InceptionExtractor):
    """Pool features behind clean-fid's own resize, its mode `clean` (Parmar et al., arXiv:2104.11222).

    Distances are other numbers than the FID that EDM and its successors report, by about a point on CIFAR-10.
    """

    name = "inception-clean"
    behind = (
        "behind clean-fid's resize to 299x299 (Pillow's bicubic filter, float channels), in float32 without "
        "TF32; not comparable with FIDs behind the network's own resize"
    )

    def features(self, images: Tensor) -> Tensor:
        pixels = each(images, build_resizer("clean"), self.device).contiguous()
        features: Tensor = self._net.layers((pixels - 128) / 128)
        return features.flatten(1)


class InceptionScore(NamedTuple):
    """Mean and population standard deviation over splits."""

    score: float
    score_std: float


def inception_score(probabilities: Tensor, splits: int = 10) -> InceptionScore:
    """Return exp(E KL(p(y|x) || p(y))) over consecutive splits of `probabilities` [N, C], a softmax a row.

    The rows are split in the order they come in, so they must not be sorted by class.

    Raises:
        UserError: fewer rows than splits.
    """
    count = len(probabilities)
    if count < splits:
        raise UserError(
            f"The Inception Score over {splits} splits needs {splits} images or more, got {count}."
        )
    rows = probabilities.to(torch.float64)
    bounds = [index * count // splits for index in range(splits + 1)]
    scores = torch.stack([_score(rows[low:high]) for low, high in pairwise(bounds)])
    return InceptionScore(float(scores.mean()), float(scores.std(correction=0)))


def _sentence(error: Exception) -> str:
    """Return the first sentence of the last line of a TorchScript error, before which stands a trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split(". ")[0].rstrip(".") if lines else type(error).__name__


def _score(rows: Tensor) -> Tensor:
    marginal = rows.mean(dim=0)
    # xlogy is 0 at 0, the limit of p log p.
    divergence = torch.xlogy(rows, rows) - torch.xlogy(rows, marginal)
    return divergence.sum(dim=1).mean().exp()
