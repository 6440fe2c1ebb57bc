"""How a setting evaluates a run's snapshots, and a teacher or what others published."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gdd.config.records import Evaluation
from gdd.data.image_array import ImageArray
from gdd.distill.generate import EVALUATION_SEED, SAMPLES
from gdd.errors import DivergedError, UserError
from gdd.files import sha256, write_npz
from gdd.metrics.comparison import Comparisons, meaning, only
from gdd.metrics.evaluate import block_file, evaluate_block, evaluate_blocks, known_block, over_blocks
from gdd.metrics.sources import Source, open_source
from gdd.provenance import environment
from gdd.training.world import ALONE, World

log = logging.getLogger(__name__)

BEST_RULE = "lowest fid on latent block 0 among the snapshots"
BLOCKS = Path("state") / "evaluation"  # of a run; what is in `state` survives an interrupted job


def check_data(source: Source, comparisons: Comparisons, data: ImageArray) -> None:
    """Refuse what does not belong to a data set as it is now.

    Raises:
        UserError: a reference was made from other images, or a generator needs labels that there are not.
    """
    classes = source.facts.get("classes", 0)
    if classes > int(data.labels.max()) + 1:
        raise UserError(
            f"{source.name} is conditioned on {classes} classes, for which the data set {data.name} has no "
            "labels; evaluate it in a setting of its own data set."
        )
    for comparison in comparisons.values():
        of = comparison.reference.description
        if of.dataset_sha256 != data.sha256:
            raise UserError(
                f"The reference of {of.dataset} ({of.extractor}) was made from other images than the data "
                "set holds now; build it again with `gdd reference`."
            )


def snapshots(folder: Path) -> list[Path]:
    """Return the snapshots of a run, the last one at the end.

    Raises:
        UserError: there are none.
    """
    files = sorted((folder / "snapshots").glob("*.safetensors"))
    if not files:
        raise UserError(f"The run {folder} has no snapshots; train it first.")
    return files


def evaluate_run(
    folder: str | Path, evaluation: Evaluation, comparisons: Comparisons, *, world: World = ALONE
) -> dict[str, Any]:
    """Return the metrics of a run: FID of every snapshot on block 0, and all of the last and the best.

    Returned in every process. Each block's result is a file in the run's state, so that after an interruption
    no block is done again.

    Raises:
        UserError: the run has no snapshots.
    """
    folder, began = Path(folder), time.monotonic()
    files = snapshots(folder)
    on_curves = only(comparisons, evaluation.wanted_on_curves())

    def blocks(file: Path, comparisons: Comparisons, count: int) -> list[dict[str, Any]]:
        source = open_source(file, seed=EVALUATION_SEED, device=world.device)
        outcome = folder / BLOCKS / file.stem
        return [
            _snapshot_block(source, comparisons, outcome, index, evaluation, world) for index in range(count)
        ]

    # What is evaluated in full needs no pass of its own for the curve.
    also = [file for file in files[:-1] if int(file.stem) in evaluation.also_at]
    full = {file: blocks(file, comparisons, evaluation.blocks) for file in (*also, files[-1])}
    curve = {file: full[file][0] if file in full else blocks(file, on_curves, 1)[0] for file in files}
    # A snapshot that diverged has no FID and cannot be best; if all did, the last stands for them.
    best = min(reversed(files), key=lambda file: curve[file].get("fid", math.inf))
    if best not in full:
        full[best] = blocks(best, comparisons, evaluation.blocks)

    def snapshot(file: Path) -> dict[str, Any]:
        return {"images": int(file.stem), "weights_sha256": sha256(file), **over_blocks(full[file])}

    last = open_source(files[-1], seed=EVALUATION_SEED, device=world.device)
    points = {file.stem: point for file, point in curve.items()}
    points |= _points_of_removed(folder, files, last, on_curves, evaluation)
    shown = evaluation.wanted_on_curves()
    return {
        "kind": "student",
        "evaluations": last.evaluations,
        "curve": [
            {"images": int(name), **{key: point[key] for key in shown if key in point}}
            for name, point in sorted(points.items())
        ],
        "final": snapshot(files[-1]),
        "best": {**snapshot(best), "rule": BEST_RULE},
        **({"also_at": {str(int(file.stem)): snapshot(file) for file in also}} if also else {}),
        **_context(evaluation, comparisons, evaluation.blocks, world),
        "seconds": round(time.monotonic() - began, 1),
    }


def evaluate_in_setting(
    source: Source,
    evaluation: Evaluation,
    comparisons: Comparisons,
    out: Path,
    samples: Path,
    *,
    world: World = ALONE,
) -> dict[str, Any]:
    """Return the metrics of what has no snapshots on every block, of images on as many blocks as there are.

    The first images are kept in `samples`. Returned in every process; each block's result is a file beside
    `out`.

    Raises:
        UserError: fewer images than in a block.
        DivergedError: an image holds NaN or infinity.
    """
    count = evaluation.blocks
    if source.count is not None:
        count = min(count, source.count // evaluation.samples)
    if count == 0:
        raise UserError(
            f"{source.name} holds {source.count:,} images, but the setting evaluates {evaluation.samples:,} "
            "at once, on whose number most metrics depend; provide as many."
        )
    began = time.monotonic()
    if world.main:
        write_npz(samples, images=source.images(0, min(SAMPLES, source.count or SAMPLES)).cpu().numpy())
    blocks = evaluate_blocks(source, comparisons, out, evaluation.samples, count, world)
    return {
        "evaluations": source.evaluations,
        "final": {"images": 0, "weights_sha256": source.sha256, **over_blocks(blocks)},
        **_context(evaluation, comparisons, count, world),
        "seconds": round(time.monotonic() - began, 1),
    }


def _snapshot_block(
    source: Source, comparisons: Comparisons, outcome: Path, index: int, evaluation: Evaluation, world: World
) -> dict[str, Any]:
    start = index * evaluation.samples
    try:
        file = block_file(outcome, index)
        return evaluate_block(source, comparisons, file, start, evaluation.samples, world)
    except DivergedError as error:
        if world.main:
            log.warning("Block %d has no metrics: %s", index, error)
        return {"start": start}


def _points_of_removed(
    folder: Path, files: Sequence[Path], last: Source, comparisons: Comparisons, evaluation: Evaluation
) -> dict[str, dict[str, Any]]:
    """Return what is known on block 0 of snapshots that were evaluated and removed, as `keep` asks for."""
    there = {file.stem for file in files}
    found: dict[str, dict[str, Any]] = {}
    for file in sorted((folder / BLOCKS).glob("*.block0.json")):
        name = file.name.removesuffix(".block0.json")
        if name not in there:
            point = known_block(last, comparisons, file, 0, evaluation.samples, any_weights=True)
            found |= {name: point} if point else {}
    return found


def _context(evaluation: Evaluation, comparisons: Comparisons, blocks: int, world: World) -> dict[str, Any]:
    """Return what the numbers mean and what they were made from."""
    of = comparisons[evaluation.extractor].reference.description
    return {
        **meaning(comparisons, evaluation.samples),
        "provenance": {
            "samples": evaluation.samples,
            "blocks": blocks,
            "latent_seed": EVALUATION_SEED,
            "dataset": of.dataset,
            "dataset_sha256": of.dataset_sha256,
            "reference_images": of.count,
            "extractor": evaluation.extractor,
            "extractor_sha256": of.extractor_sha256,
            **environment(world.device),
            **({"processes": world.size} if world.size > 1 else {}),
        },
    }
