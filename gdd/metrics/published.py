"""How far a data set's own reference is from the statistics that were published for it.

EDM publishes mean and covariance of Inception features of its training sets (arXiv:2206.00364). The Frechet
distance between them and the same statistics computed here is 0 up to rounding if the images, the network
and its resize agree, so that FIDs against either reference may be compared.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gdd.errors import UserError
from gdd.files import sha256, write_json
from gdd.metrics.extractors import FeatureExtractor
from gdd.metrics.frechet import Gaussian, frechet_distance
from gdd.metrics.inception import InceptionExtractor
from gdd.metrics.reference import Floor, Reference, ReferenceDescription, load_reference

UNKNOWN_COUNT = 0  # published statistics do not say of how many images they are
UNKNOWN_FLOOR = Floor(
    real_count=0, other_count=0, fid=None, precision=0.0, recall=0.0, density=0.0, coverage=0.0
)
BROKEN_ARCHIVE = (EOFError, zipfile.BadZipFile, zlib.error)


def load_published(path: str | Path) -> Gaussian:
    """Read published statistics: an npz with `mu` [D] and `sigma` [D, D]; other keys are passed over.

    The covariance may be singular. The count is `UNKNOWN_COUNT`.

    Raises:
        UserError: the file is missing or broken, lacks a key, or holds something else than a mean and a
            covariance of one dimension in finite numbers.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            # An .npy file gives an array instead, which is no context manager: a TypeError.
            mean, covariance = file["mu"], file["sigma"]
    except FileNotFoundError:
        raise UserError(f"The published statistics {path} do not exist; run `gdd fetch` for them.") from None
    except (KeyError, ValueError, TypeError, OSError, *BROKEN_ARCHIVE) as error:
        raise UserError(
            f"{path} is no file of published statistics, arrays mu and sigma ({error}); fetch it again."
        ) from None
    problem = _problem(mean, covariance)
    if problem:
        raise UserError(f"The published statistics {path} are unusable: {problem}; fetch them again.")
    return Gaussian(
        torch.from_numpy(mean.astype(np.float64)),
        torch.from_numpy(covariance.astype(np.float64)),
        UNKNOWN_COUNT,
    )


def holds_published(path: str | Path) -> bool:
    """Whether a file is one of published statistics and none of this project's references."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return "mu" in file and "description" not in file
    except (ValueError, TypeError, OSError, *BROKEN_ARCHIVE):
        return False


def published_reference(path: str | Path, extractor: FeatureExtractor, resolution: int) -> Reference:
    """Return published statistics as what images are compared with; they allow a Frechet distance alone.

    EDM's and ADM's are of the Inception network of 2015-12-05. EDM calls its files `<data set>-64x64.npz`;
    of a file with another name, neither the data set nor the resolution is known.

    Args:
        path: the file.
        extractor: what the images are going to be seen by.
        resolution: of the images, for files that do not say theirs.

    Raises:
        UserError: the file is unusable, or of other features than the extractor's.
    """
    if extractor.name != InceptionExtractor.name:
        raise UserError(
            f"The published statistics {path} are of {InceptionExtractor.name}, not of {extractor.name}; "
            "build a reference from the images with `gdd reference`."
        )
    published = load_published(path)
    if published.dimension != extractor.dimension:
        raise UserError(
            f"The published statistics {path} are of {published.dimension} features, the extractor "
            f"{extractor.name} gives {extractor.dimension}; use the network they were computed with."
        )
    name = re.fullmatch(r"(.+)-(\d+)x\2", Path(path).stem)
    description = ReferenceDescription(
        dataset=name[1] if name else Path(path).stem,
        dataset_sha256=sha256(path),
        resolution=int(name[2]) if name else resolution,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        definition=extractor.definition,
        count=UNKNOWN_COUNT,
        nearest_real=0.0,
        floor=UNKNOWN_FLOOR,
    )
    return Reference(description, published, torch.zeros(0, published.dimension))


def compare_with_published(reference: Reference, path: str | Path) -> dict[str, Any]:
    """Return how far a reference's mean and covariance are from published ones, as plain JSON values.

    `relative_distance` is the Frechet distance over the trace of the published covariance (null if that is
    0), `mean_difference` the largest absolute difference of a feature's means.

    Raises:
        UserError: the published file is unusable, or of other features than the reference.
    """
    own, published = reference.gaussian, load_published(path)
    of = reference.description
    if own.dimension != published.dimension:
        raise UserError(
            f"The published statistics {path} are of {published.dimension} features, the reference of "
            f"{of.dataset} of {own.dimension} ({of.extractor}); compare with a reference of the same network."
        )
    distance = frechet_distance(own, published)
    trace = float(published.covariance.trace())
    return {
        "frechet_distance": distance,
        "relative_distance": distance / trace if trace > 0 else None,
        "mean_difference": float((own.mean.cpu() - published.mean).abs().max()),
        "own_trace": float(own.covariance.trace()),
        "published_trace": trace,
        "features": own.dimension,
        "count": own.count,
        "published_count": published.count or None,
        "dataset": of.dataset,
        "dataset_sha256": of.dataset_sha256,
        "resolution": of.resolution,
        "extractor": of.extractor,
        "extractor_sha256": of.extractor_sha256,
        "definition": of.definition,
        "published_file": Path(path).name,
        "published_sha256": sha256(path),
    }


def report_distance(
    out: str | Path, reference_file: str | Path, published_file: str | Path
) -> dict[str, Any]:
    """Compare a reference file with published statistics and write the result to `out` (JSON).

    Raises:
        UserError: one of the files is unusable, or they are of different features.
    """
    result = compare_with_published(load_reference(reference_file), published_file)
    result["reference_sha256"] = sha256(reference_file)
    write_json(out, result)
    return result


def _problem(mean: npt.NDArray[Any], covariance: npt.NDArray[Any]) -> str | None:
    """Return what keeps two arrays from being a mean and a covariance."""
    if mean.ndim != 1 or len(mean) == 0 or covariance.shape != (len(mean), len(mean)):
        return f"mu has the shape {mean.shape} and sigma {covariance.shape} instead of (D,) and (D, D)"
    for name, array in (("mu", mean), ("sigma", covariance)):
        if array.dtype.kind not in "fiu":
            return f"{name} is of the type {array.dtype} instead of real numbers"
        if not np.isfinite(array).all():
            return f"{name} holds NaN or infinity"
    # Computed in float32 or summed in another order, it may be off by rounding.
    largest = np.abs(covariance).max()
    if (
        np.abs(covariance - covariance.T).max() > 1e-5 * largest
        or np.diagonal(covariance).min() < -1e-5 * largest
    ):
        return "sigma is no covariance, which is symmetric and has no negative variances"
    return None
