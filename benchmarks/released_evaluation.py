"""The released way from images to metrics: by files, with two extractions and statistics of their own.

Written from what EDM's `generate.py` and `fid.py` and the evaluator of ADM do; precision and recall, which
that one computes in TensorFlow, are those of the package prdc.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from inception_cost import STATISTICS, Timed
from PIL import Image
from prdc import prdc
from torch import Tensor

from gdd.metrics.judging import EXTRACTION_BATCH
from gdd.metrics.reference import Reference


def released_way(
    images: np.ndarray, extractor: Timed, reference: Reference, folder: Path
) -> dict[str, float]:
    """Return the metrics by way of files, with one extraction for FID and one for all others."""
    for index, image in enumerate(images):
        place = folder / f"{index - index % 1000:06d}"
        place.mkdir(exist_ok=True)
        Image.fromarray(image).save(place / f"{index:06d}.png")
    files = sorted(folder.rglob("*.png"))

    sums = torch.zeros(extractor.dimension, dtype=torch.float64)
    products = torch.zeros(extractor.dimension, extractor.dimension, dtype=torch.float64)
    for start in range(0, len(files), EXTRACTION_BATCH):
        add_up(sums, products, extractor(read(files[start : start + EXTRACTION_BATCH])))
    fid = distance_by_square_root(sums, products, len(files), reference)

    np.savez(folder / "samples.npz", read(files).numpy())
    packed = torch.from_numpy(np.load(folder / "samples.npz")["arr_0"])
    parts = [extractor.features_and_probabilities(part) for part in packed.split(EXTRACTION_BATCH)]
    features, probabilities = (torch.cat(part) for part in zip(*parts, strict=True))
    found = prdc_metrics(reference.features.numpy(), features.numpy())
    return {
        "fid": fid,
        "precision": found["precision"],
        "recall": found["recall"],
        "inception_score": score(probabilities.numpy()),
    }


def read(files: list[Path]) -> Tensor:
    return torch.from_numpy(np.stack([np.array(Image.open(file)) for file in files]))


@STATISTICS["moments"].wrap
def add_up(sums: Tensor, products: Tensor, features: Tensor) -> None:
    precise = features.to(torch.float64)
    sums += precise.sum(dim=0)
    products += precise.T @ precise


@STATISTICS["Frechet distance"].wrap
def distance_by_square_root(sums: Tensor, products: Tensor, count: int, reference: Reference) -> float:
    mean = sums / count
    covariance = ((products - torch.outer(mean, mean) * count) / (count - 1)).numpy()
    real = reference.gaussian.covariance.numpy()
    root = scipy.linalg.sqrtm(covariance @ real)
    offset = np.square(mean.numpy() - reference.gaussian.mean.numpy()).sum()
    return float(np.real(offset + np.trace(covariance + real - 2 * root)))


@STATISTICS["neighbours"].wrap
def prdc_metrics(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        return {name: float(value) for name, value in prdc.compute_prdc(real, fake, nearest_k=3).items()}


@STATISTICS["Inception Score"].wrap
def score(probabilities: np.ndarray) -> float:
    scores = []
    for part in np.array_split(probabilities, 10):
        divergence = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(np.exp(divergence.sum(axis=1).mean()))
    return float(np.mean(scores))
