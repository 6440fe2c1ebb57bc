"""The evaluation stages: a run's snapshots, or a teacher at some number of steps, to one metrics file."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gdd.config.recipe import Sampler
from gdd.config.records import Evaluation
from gdd.data.image_array import ImageArray
from gdd.data.quantise import quantise
from gdd.diffusion.sampler import function_evaluations
from gdd.diffusion.sampling import sample_range
from gdd.distill.generate import EVALUATION_SEED, SAMPLES, generate
from gdd.errors import DivergedError, UserError
from gdd.files import sha256, write_npz
from gdd.metrics.by_name import load_extractor
from gdd.metrics.evaluation import NEAREST, evaluate_block
from gdd.metrics.extractors import FeatureExtractor, PixelExtractor
from gdd.metrics.reference import Reference, check_compatible, load_reference
from gdd.networks.checkpoint import load_denoiser, load_generator
from gdd.provenance import environment

log = logging.getLogger(__name__)

GENERATION_BATCH = 250
JUDGE, PIXELS = "judge", "pixels"
CURVE_METRICS = {"fid"}
ALL_METRICS = {"fid", "precision", "recall", "density", "coverage", "nearest"}
BEST_RULE = "lowest fid on latent block 0 among the snapshots"

References = Mapping[str, tuple[FeatureExtractor, Reference]]
Generate = Callable[[int, int], Tensor]


class HasShape(Protocol):
    """What holds images of one shape."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """One image's (C, H, W)."""
        ...


def make_extractor(
    path: str | Path | None, data: HasShape, name: str | None = None, device: torch.device | str = "cpu"
) -> FeatureExtractor:
    """Return the extractor of a weights file, or the pixels themselves for None.

    Without the name of an extractor, a `.pt` file is the published Inception network (TorchScript), any other
    a classifier of this project.
    """
    if path is None:
        channels, resolution, _ = data.shape
        return PixelExtractor(resolution, channels)
    return load_extractor(name, path, device)


def open_references(
    data: ImageArray,
    judge: str | Path,
    judge_reference: str | Path,
    pixel_reference: str | Path | None,
    device: torch.device | str = "cpu",
) -> dict[str, tuple[FeatureExtractor, Reference]]:
    """Return what images are compared with: the judge's features and, if given, raw pixels.

    The judge computes on `device`.

    Raises:
        UserError: a reference belongs to another data set, resolution or extractor.
    """
    reference = load_reference(judge_reference)
    # Two extractors may be one file; which is meant, the reference says.
    name = reference.description.extractor if Path(judge).suffix in (".pt", ".pth") else None
    pairs = {JUDGE: (make_extractor(judge, data, name, device), reference)}
    if pixel_reference is not None:
        pairs[PIXELS] = (make_extractor(None, data), load_reference(pixel_reference))
    for extractor, reference in pairs.values():
        check_compatible(reference, extractor, data.name, data.shape[1])
    return pairs


def evaluate_run(
    folder: str | Path,
    evaluation: Evaluation,
    references: References,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Judge every snapshot of a run: all on latent block 0, the last and the best on every block.

    Images are made on `device`; where features are, `references` say.

    Raises:
        UserError: the run has no snapshots.
    """
    folder = Path(folder)
    files = sorted((folder / "snapshots").glob("*.safetensors"))
    if not files:
        raise UserError(f"The run {folder} has no snapshots; train it first.")
    began = time.monotonic()
    curve = []
    for file in files:
        block = _block(_student_images(file, device), 0, evaluation, references, CURVE_METRICS)
        curve.append({"images": int(file.stem), **block})
    # What diverged has no FID and cannot be best; if all did, the last stands for them.
    best = min(range(len(files)), key=lambda index: (curve[index].get("fid", math.inf), -index))
    final_blocks = _all_blocks(_student_images(files[-1], device), evaluation, references)
    best_blocks = (
        final_blocks
        if files[best] == files[-1]
        else _all_blocks(_student_images(files[best], device), evaluation, references)
    )
    also = {
        str(int(file.stem)): _snapshot(
            file, _all_blocks(_student_images(file, device), evaluation, references)
        )
        for file in files[:-1]
        if int(file.stem) in evaluation.also_at
    }
    return {
        "kind": "student",
        "evaluations": load_generator(files[-1]).steps,
        "curve": [{key: value for key, value in point.items() if key != "start"} for point in curve],
        "final": _snapshot(files[-1], final_blocks),
        "best": {**_snapshot(files[best], best_blocks), "rule": BEST_RULE},
        **({"also_at": also} if also else {}),
        **_context(evaluation, references, device),
        "seconds": round(time.monotonic() - began, 1),
    }


def evaluate_teacher(
    model: str | Path,
    sampler: Sampler,
    evaluation: Evaluation,
    references: References,
    samples: str | Path,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Judge a teacher sampled as `sampler` says, on every latent block, and keep its first images.

    They are made on `device`; where features are, `references` say.
    """
    began = time.monotonic()
    denoiser = load_denoiser(model).to(device)

    def images(start: int, count: int) -> Tensor:
        return quantise(sample_range(denoiser, sampler, EVALUATION_SEED, start, count))

    write_npz(samples, images=images(0, SAMPLES).cpu().numpy())
    blocks = _all_blocks(images, evaluation, references)
    return {
        "kind": "teacher",
        "evaluations": function_evaluations(sampler.steps),
        "sampler": sampler.model_dump(mode="json"),
        "final": {"images": 0, "weights_sha256": sha256(model), **summary(blocks)},
        **_context(evaluation, references, device),
        "seconds": round(time.monotonic() - began, 1),
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


def _snapshot(file: Path, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    return {"images": int(file.stem), "weights_sha256": sha256(file), **summary(blocks)}


def _student_images(file: Path, device: torch.device | str) -> Generate:
    generator = load_generator(file).to(device)
    return lambda start, count: quantise(generate(generator, start, count))


def _all_blocks(images: Generate, evaluation: Evaluation, references: References) -> list[dict[str, Any]]:
    return [_block(images, index, evaluation, references, ALL_METRICS) for index in range(evaluation.blocks)]


def _block(
    images: Generate, index: int, evaluation: Evaluation, references: References, metrics: set[str]
) -> dict[str, Any]:
    """Return one block's metrics under the names that tables use."""
    start = index * evaluation.samples
    try:
        result = evaluate_block(
            images,
            start=start,
            count=evaluation.samples,
            batch=GENERATION_BATCH,
            references=references,
            metrics=metrics,
        )
    except DivergedError as error:
        log.warning("Block %d has no metrics: %s", index, error)
        return {"start": start}
    wanted = ("fid", "precision", "recall", "density", "coverage")
    flat: dict[str, Any] = {"start": start}
    for space, prefix in ((JUDGE, ""), (PIXELS, "pixel_")):
        if space in result:
            flat |= {prefix + key: result[space][key] for key in wanted if key in result[space]}
    if NEAREST in result and result[NEAREST]["ratio_to_real"] is not None:
        flat["nearest"] = result[NEAREST]["ratio_to_real"]
    return flat


def _context(evaluation: Evaluation, references: References, device: torch.device | str) -> dict[str, Any]:
    """Return what the numbers mean and what they were made from."""
    floor: dict[str, Any] = {"nearest": 1.0}
    definitions = {}
    for space, prefix in ((JUDGE, ""), (PIXELS, "pixel_")):
        if space in references:
            extractor, reference = references[space]
            found = reference.description.floor
            floor |= {f"{prefix}{key}": getattr(found, key) for key in ("fid", "precision", "recall")}
            definitions[f"{prefix}fid"] = f"Frechet distance on {extractor.definition}"
            definitions[f"{prefix}precision"] = (
                f"improved precision and recall (k = 3, at most the distance) on {extractor.definition}"
            )
    judge = references[JUDGE][1].description
    return {
        "floor": floor,
        "definitions": definitions,
        "provenance": {
            "samples": evaluation.samples,
            "blocks": evaluation.blocks,
            "latent_seed": EVALUATION_SEED,
            "dataset": judge.dataset,
            "dataset_sha256": judge.dataset_sha256,
            "reference_images": judge.count,
            "extractor": evaluation.extractor,
            "extractor_sha256": judge.extractor_sha256,
            **environment(device),
        },
    }
