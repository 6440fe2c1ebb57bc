"""The evaluation stages: a run's snapshots, a teacher, or what others published, to one metrics file."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gdd.config.evaluation import Evaluation
from gdd.data.image_array import ImageArray
from gdd.distill.generate import EVALUATION_SEED, SAMPLES
from gdd.errors import DivergedError, UserError
from gdd.files import sha256, write_npz
from gdd.metrics.judges import Judge, only
from gdd.metrics.judging import block_file, judge_block, results_of_gone
from gdd.metrics.outcome import context, summary
from gdd.metrics.sources import GeneratorSource, ImageSource
from gdd.provenance import environment
from gdd.training.world import ALONE, World

log = logging.getLogger(__name__)

BEST_RULE = "lowest fid on latent block 0 among the snapshots"
BLOCKS = Path("state") / "evaluation"  # of a run; what is in `state` survives an interrupted job

Judges = Mapping[str, Judge]


def check_data(source: ImageSource, judges: Judges, data: ImageArray) -> None:
    """Refuse what does not belong to a data set as it is now.

    Raises:
        UserError: a reference was made from other images, or a generator needs labels that there are not.
    """
    classes = source.facts.get("classes", 0)
    if classes > int(data.labels.max()) + 1:
        raise UserError(
            f"{source.name} is conditioned on {classes} classes, for which the data set {data.name} has no "
            "labels; judge it in a setting of its own data set."
        )
    for judge in judges.values():
        of = judge.reference.description
        if of.dataset_sha256 != data.sha256:
            raise UserError(
                f"The reference of {of.dataset} ({of.extractor}) was made from other images than the data "
                "set holds now; build it again with `gdd reference`."
            )


def evaluate_run(
    folder: str | Path,
    evaluation: Evaluation,
    judges: Judges,
    *,
    device: torch.device | str = "cpu",
    shards: World = ALONE,
) -> dict[str, Any]:
    """Judge every snapshot of a run: all by FID on latent block 0, the last and the best by all on every one.

    Returned in every process. Each block's result is a file in the run's state, so that after an interruption
    no block is done again.

    Raises:
        UserError: the run has no snapshots.
    """
    folder, began = Path(folder), time.monotonic()
    files = snapshots(folder)
    on_curves = only(judges, evaluation.wanted_on_curves())

    def blocks(file: Path, judges: Judges, count: int) -> list[dict[str, Any]]:
        source = GeneratorSource(file, seed=EVALUATION_SEED, device=device)
        outcome = folder / BLOCKS / file.stem
        return [_snapshot_block(source, judges, outcome, index, evaluation, shards) for index in range(count)]

    # What is known to be judged in full needs no pass of its own for the curve.
    asked = {file for file in files[:-1] if int(file.stem) in evaluation.also_at}
    judged = {file: blocks(file, judges, evaluation.blocks) for file in files if file in {*asked, files[-1]}}
    curve = [judged[file][0] if file in judged else blocks(file, on_curves, 1)[0] for file in files]
    # What diverged has no FID and cannot be best; if all did, the last stands for them.
    best = min(range(len(files)), key=lambda index: (curve[index].get("fid", math.inf), -index))
    if files[best] not in judged:
        judged[files[best]] = blocks(files[best], judges, evaluation.blocks)

    def snapshot(file: Path) -> dict[str, Any]:
        return {"images": int(file.stem), "weights_sha256": sha256(file), **summary(judged[file])}

    points = {file.stem: point for file, point in zip(files, curve, strict=True)}
    points |= _points_of_gone(folder, files, on_curves, evaluation, device)
    shown = evaluation.wanted_on_curves()
    also = {str(int(file.stem)): snapshot(file) for file in files if file in asked}
    return {
        "kind": "student",
        "evaluations": GeneratorSource(files[-1]).evaluations,
        "curve": [
            {"images": int(name), **{key: point[key] for key in shown if key in point}}
            for name, point in sorted(points.items())
        ],
        "final": snapshot(files[-1]),
        "best": {**snapshot(files[best]), "rule": BEST_RULE},
        **({"also_at": also} if also else {}),
        **_context(evaluation, judges, evaluation.blocks, device, shards),
        "seconds": round(time.monotonic() - began, 1),
    }


def _points_of_gone(
    folder: Path, files: Sequence[Path], judges: Judges, evaluation: Evaluation, device: torch.device | str
) -> dict[str, dict[str, Any]]:
    """Return what is known on block 0 of snapshots that were judged and then removed, as `keep` asks for."""
    last = GeneratorSource(files[-1], seed=EVALUATION_SEED, device=device)
    there = {file.stem for file in files}
    found = {}
    for file in sorted((folder / BLOCKS).glob("*.block0.json")):
        name = file.name.removesuffix(".block0.json")
        if name not in there and (point := results_of_gone(last, judges, file, 0, evaluation.samples)):
            found[name] = point
    return found


def snapshots(folder: Path) -> list[Path]:
    """Return the snapshots of a run, the last one at the end.

    Raises:
        UserError: there are none.
    """
    files = sorted((folder / "snapshots").glob("*.safetensors"))
    if not files:
        raise UserError(f"The run {folder} has no snapshots; train it first.")
    return files


def evaluate_in_setting(
    source: ImageSource,
    evaluation: Evaluation,
    judges: Judges,
    out: Path,
    samples: Path,
    *,
    device: torch.device | str = "cpu",
    shards: World = ALONE,
) -> dict[str, Any]:
    """Judge what has no snapshots on every block of latents, of images on as many as there are.

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
            f"{source.name} holds {source.count:,} images, but the setting judges {evaluation.samples:,} at "
            "once, on whose number most metrics depend; provide as many."
        )
    began = time.monotonic()
    if shards.main:
        write_npz(samples, images=source.images(0, min(SAMPLES, source.count or SAMPLES)).cpu().numpy())
    blocks = [
        judge_block(
            source, judges, block_file(out, index), index * evaluation.samples, evaluation.samples, shards
        )
        for index in range(count)
    ]
    return {
        "evaluations": source.evaluations,
        "final": {"images": 0, "weights_sha256": source.sha256, **summary(blocks)},
        **_context(evaluation, judges, count, device, shards),
        "seconds": round(time.monotonic() - began, 1),
    }


def _snapshot_block(
    source: ImageSource, judges: Judges, outcome: Path, index: int, evaluation: Evaluation, shards: World
) -> dict[str, Any]:
    start = index * evaluation.samples
    try:
        return judge_block(source, judges, block_file(outcome, index), start, evaluation.samples, shards)
    except DivergedError as error:
        if shards.main:
            log.warning("Block %d has no metrics: %s", index, error)
        return {"start": start}


def _context(
    evaluation: Evaluation, judges: Judges, blocks: int, device: torch.device | str, shards: World
) -> dict[str, Any]:
    """Return what the numbers mean and what they were made from."""
    judge = judges[evaluation.extractor].reference.description
    found = context(judges, evaluation.samples)
    several = {"processes": shards.size} if shards.size > 1 else {}
    return {
        **found,
        "provenance": {
            "samples": evaluation.samples,
            "blocks": blocks,
            "latent_seed": EVALUATION_SEED,
            "dataset": judge.dataset,
            "dataset_sha256": judge.dataset_sha256,
            "reference_images": judge.count,
            "extractor": evaluation.extractor,
            "extractor_sha256": judge.extractor_sha256,
            **environment(device),
            **several,
        },
    }
