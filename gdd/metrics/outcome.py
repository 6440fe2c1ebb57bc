"""What stands in a metrics file: numbers over blocks, what they mean, and what they were made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gdd.metrics import kid
from gdd.metrics.judges import Judge
from gdd.metrics.published import UNKNOWN_COUNT

DEFINITIONS = {
    "fid": "Frechet distance with unbiased covariances",
    "kid": kid.DEFINITION,
    "precision": "improved precision (k = 3, at most the distance)",
    "recall": "improved recall (k = 3, at most the distance)",
    "density": "density (k = 3, at most the distance)",
    "coverage": "coverage (k = 3, at most the distance)",
    "inception_score": "Inception Score, 10 consecutive splits, the last layer without its bias",
    "nearest": "median distance to the nearest real image over that between real images",
}


def summary(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the blocks with mean, sample standard deviation (None for one block) and minimum per metric.

    A metric that a block lacks, because its images were no numbers, is left out.
    """
    keys = [key for key in blocks[0] if key != "start" and all(key in block for block in blocks)]
    values = {key: torch.tensor([block[key] for block in blocks], dtype=torch.float64) for key in keys}
    several = len(blocks) > 1
    return {
        "blocks": blocks,
        "mean": {key: float(value.mean()) for key, value in values.items()},
        "sampling_std": {key: float(value.std()) if several else None for key, value in values.items()},
        "minimum": {key: float(value.min()) for key, value in values.items()},
    }


def machine() -> dict[str, str]:
    """Return what the networks ran on, where that is no CPU."""
    return {"device": torch.cuda.get_device_name()} if torch.cuda.is_initialized() else {}


def context(judges: Mapping[str, Judge], samples: int) -> dict[str, Any]:
    """Return what the numbers mean, and what they are between two halves of the real images."""
    definitions, references, floor = {}, {}, {}
    for name, judge in judges.items():
        of = judge.reference.description
        known, kept = of.count != UNKNOWN_COUNT, len(judge.reference.features)
        for metric, inner in judge.metrics.items():
            if not known:
                real = f"published statistics of {of.dataset}"
            elif inner == "fid" or kept == of.count:
                real = f"{of.count:,} of {of.dataset}"
            else:
                real = f"{kept:,} evenly spaced ones of {of.count:,} of {of.dataset}"
            definitions[metric] = (
                f"{DEFINITIONS[inner]}, of {samples:,} generated images"
                + ("" if inner == "inception_score" else f" against {real}")
                + f", on {judge.extractor.definition}"
            )
            if inner == "nearest":
                floor[metric] = 1.0
            elif known and getattr(of.floor, inner, None) is not None:
                floor[metric] = getattr(of.floor, inner)
        references[name] = {
            "dataset": of.dataset,
            "dataset_sha256": of.dataset_sha256,
            "resolution": of.resolution,
            "count": of.count if known else None,
            "sha256": judge.reference_sha256,
            "extractor": judge.extractor.name,
            "extractor_sha256": judge.extractor.sha256,
        }
    return {"definitions": definitions, "references": references, "floor": floor}
