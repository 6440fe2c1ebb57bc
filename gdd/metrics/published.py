"""Mean and covariance that others published of a data set's features, as a reference and beside our own.

EDM publishes them of Inception features of its training sets (arXiv:2206.00364). If the images, the network
and its resize agree, the Frechet distance to the same statistics computed here is 0 up to rounding, and FIDs
against either may be compared.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gdd.errors import UserError
from gdd.files import sha256, write_json
from gdd.metrics.extractors import Extractor
from gdd.metrics.frechet import Gaussian, frechet_distance
from gdd.metrics.reference import Reference, ReferenceDescription, load_reference

UNKNOWN_COUNT = 0  # published statistics do not say of how many images they are
OF = "inception"  # the extractor that EDM's and ADM's are of
BROKEN = (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error)


def holds_published(path: str | Path) -> bool:
    """Whether a file is one of published statistics and none of this project's references."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return "mu" in file and "description" not in file
    except BROKEN:
        return False


def load_published(path: str | Path) -> Gaussian:
    """Read published statistics: an npz with `mu` [D] and `sigma` [D, D], which may be singular.

    Raises:
        UserError: the file is missing or broken, lacks a key, or holds something else than a mean and a
            covariance of one dimension in finite numbers.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (torch.from_numpy(file[key].astype(np.float64)) for key in ("mu", "sigma"))
    except FileNotFoundError:
        raise UserError(f"The published statistics {path} do not exist; run `gdd fetch` for them.") from None
    except (KeyError, *BROKEN) as error:
        raise UserError(
            f"{path} is no file of published statistics, arrays mu and sigma ({error}); fetch it again."
        ) from None
    if mean.ndim != 1 or len(mean) == 0 or covariance.shape != (len(mean), len(mean)):
        shapes = f"mu has the shape {list(mean.shape)} and sigma {list(covariance.shape)}"
        raise UserError(f"{path} holds no mean [D] and covariance [D, D]: {shapes}; fetch it again.")
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise UserError(f"The published statistics {path} hold NaN or infinity; fetch them again.")
    return Gaussian(mean, covariance, UNKNOWN_COUNT)


def published_reference(path: str | Path, extractor: Extractor, resolution: int) -> Reference:
    """Return published statistics as what images are compared with; they allow a Frechet distance alone.

    EDM calls its files `<data set>-64x64.npz`; of a file with another name, neither the data set nor the
    resolution is known.

    Args:
        path: the file.
        extractor: of the images that are compared.
        resolution: of the images, for files that do not say theirs.

    Raises:
        UserError: the file is unusable, or of other features than the extractor's.
    """
    if extractor.name != OF:
        raise UserError(
            f"The published statistics {path} are of {OF}, not of {extractor.name}; "
            "build a reference from the images with `gdd reference`."
        )
    published = load_published(path)
    name = re.fullmatch(r"(.+)-(\d+)x\2", Path(path).stem)
    description = ReferenceDescription(
        dataset=name[1] if name else Path(path).stem,
        dataset_sha256=sha256(path),
        resolution=int(name[2]) if name else resolution,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        definition=extractor.definition,
        count=UNKNOWN_COUNT,
        floor={},
    )
    return Reference(published, torch.zeros(0, published.dimension), description)


def report_distance(
    out: str | Path, reference_file: str | Path, published_file: str | Path
) -> dict[str, Any]:
    """Compare a reference with published statistics and write how far they are apart to `out` (JSON).

    `relative_distance` is the Frechet distance over the trace of the published covariance (null if that is
    0), `mean_difference` the largest absolute difference of a feature's means.

    Raises:
        UserError: one of the files is unusable, or they are of different features.
    """
    reference, published = load_reference(reference_file), load_published(published_file)
    own, of = reference.gaussian, reference.description
    if own.dimension != published.dimension:
        raise UserError(
            f"The published statistics {published_file} are of {published.dimension} features, the reference "
            f"of {of.dataset} of {own.dimension} ({of.extractor}); compare with one of the same network."
        )
    distance = frechet_distance(own, published)
    trace = float(published.covariance.trace())
    result = {
        "frechet_distance": distance,
        "relative_distance": distance / trace if trace > 0 else None,
        "mean_difference": float((own.mean - published.mean).abs().max()),
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
        "published_file": Path(published_file).name,
        "published_sha256": sha256(published_file),
        "reference_sha256": sha256(reference_file),
    }
    write_json(out, result)
    return result
