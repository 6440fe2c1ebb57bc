"""One pass over generated images feeds every metric, block by block.

Each block's result is a file, so that an evaluation that was interrupted goes on with the first block that is
not done.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdd.config.metrics import METRICS
from gdd.config.records import Evaluation
from gdd.errors import DivergedError, UserError
from gdd.files import read_json, sha256, write_json
from gdd.metrics.extractors import reproducible_float32
from gdd.metrics.frechet import Moments
from gdd.metrics.reference import Comparisons, Features, meaning, only
from gdd.metrics.sources import BATCH, Source, in_turn, open_source
from gdd.networks.checkpoint import check_whole
from gdd.progress import progress_bar
from gdd.provenance import environment
from gdd.training.world import ALONE, World

log = logging.getLogger(__name__)

BEST_RULE = "lowest fid on latent block 0 among the snapshots"
BLOCKS = Path("state") / "evaluation"  # of a run; what is in `state` survives an interrupted job

Block = dict[str, Any]  # `start`, the index of the first image, and the metrics


def evaluate_source(
    source: Source, comparisons: Comparisons, out: Path, samples: int, blocks: int, world: World = ALONE
) -> dict[str, Any]:
    """Return the metrics of `blocks` x `samples` images, of files of images on as many blocks as there are.

    Returned in every process. Each block's result is a file beside `out`.

    Raises:
        UserError: fewer images than in a block, or too few for a metric.
        DivergedError: an image holds NaN or infinity.
    """
    began = time.monotonic()
    if source.count is not None:
        blocks = min(blocks, source.count // samples)
    if blocks == 0:
        raise UserError(
            f"{source.name} holds {source.count:,} images, but {samples:,} are evaluated at once, on whose "
            "number most metrics depend; provide as many, or ask for fewer samples."
        )
    found = [evaluate_block(source, comparisons, out, index, samples, world) for index in range(blocks)]
    return {
        "kind": source.kind,
        "evaluations": source.evaluations,
        "final": {"images": 0, "weights_sha256": source.sha256, **over_blocks(found)},
        **_context(source, comparisons, samples, blocks, world),
        "seconds": round(time.monotonic() - began, 1),
    }


def evaluate_run(
    folder: Path, evaluation: Evaluation, comparisons: Comparisons, world: World = ALONE
) -> dict[str, Any]:
    """Return the metrics of a run: FID of every snapshot on block 0, and all of the last and the best.

    Returned in every process. Each block's result is a file in the run's state.

    Raises:
        UserError: the run has no snapshots, or one of them is damaged.
    """
    began, found = time.monotonic(), (folder / "snapshots").glob("*.safetensors")
    files = sorted(file for file in found if file.stem.isdecimal())
    if not files:
        raise UserError(f"The run {folder} has no snapshots; train it first.")
    facts = folder / "run.json"
    record: dict[str, Any] = read_json(facts, dict) if facts.exists() else {}
    with world.same_error():
        if world.main:
            check_whole(files, record.get("snapshots", {}), facts)
    shown, samples = evaluation.wanted_on_curves(), evaluation.samples
    on_curves = only(comparisons, shown)

    def block(source: Source, comparisons: Comparisons, index: int) -> Block:
        out = folder / BLOCKS / Path(source.name).stem
        try:
            return evaluate_block(source, comparisons, out, index, samples, world)
        except DivergedError as error:
            if world.main:
                log.warning("Block %d has no metrics: %s", index, error)
            return {"start": index * samples}

    def blocks(file: Path, comparisons: Comparisons, count: int) -> list[Block]:
        source = open_source(file, device=world.device)
        return [block(source, comparisons, index) for index in range(count)]

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

    last = open_source(files[-1], device=world.device)
    points = {file.stem: point for file, point in curve.items()}
    points |= _removed(folder, points, _inputs(last, on_curves, 0, samples))
    return {
        "kind": "student",
        **{key: record[key] for key in ("recipe_hash", "seed") if key in record},
        "evaluations": last.evaluations,
        "curve": [
            {"images": int(name), **{key: point[key] for key in shown if key in point}}
            for name, point in sorted(points.items())
        ],
        "final": snapshot(files[-1]),
        "best": {**snapshot(best), "rule": BEST_RULE},
        **({"also_at": {str(int(file.stem)): snapshot(file) for file in also}} if also else {}),
        **_context(last, comparisons, samples, evaluation.blocks, world),
        "seconds": round(time.monotonic() - began, 1),
    }


def block_file(out: Path, index: int) -> Path:
    """Return where a block's result is kept."""
    return out.with_name(f"{out.stem}.block{index}.json")


def evaluate_block(
    source: Source, comparisons: Comparisons, out: Path, index: int, samples: int, world: World = ALONE
) -> Block:
    """Return the metrics of the block `index` of `samples` images, in every process.

    They come from the block's file if that was made from the same inputs and holds them, and else go there.

    Raises:
        UserError: too few images for a metric, or images that cannot be had.
        DivergedError: an image holds NaN or infinity.
    """
    file, start = block_file(out, index), index * samples
    inputs = _inputs(source, comparisons, start, samples)
    with world.same_error():
        known = _known_block(file, inputs) if world.main else None
        for comparison in comparisons.values():
            comparison.check(samples)
    known = world.broadcast(known)
    if known is not None:
        return known
    features = _extract(source, comparisons, start, samples, world)
    result: Block = {"start": start}
    with world.same_error():
        if world.main:
            for name, of in comparisons.items():
                rows = features[name]
                fake = Features(Moments.of(of.extractor.dimension, rows.split(BATCH)).gaussian(), rows)
                result |= compute(of.metrics, of.reference, fake, of.extractor)
            write_json(file, {**inputs, "result": result})
    return world.broadcast(result)


def compute(names: Iterable[str], real: Features, fake: Features, extractor: Any) -> dict[str, float]:
    """Return metrics of generated images by name, and as `<name>_std` the spread of those that have one.

    A function that gives several metrics is called once. A metric without a value is left out.

    Raises:
        UserError: too few images for a metric, or features that are not finite.
    """
    results: dict[Any, Any] = {}
    values: dict[str, float | None] = {}
    for name in names:
        metric = METRICS[name]
        if metric.function not in results:
            if metric.needs == "moments":
                found = metric.resolve()(real.gaussian, fake.gaussian)
            elif metric.needs == "features":
                found = metric.resolve()(real.rows.to(fake.rows.device), fake.rows)
            else:
                found = metric.resolve()(extractor.probabilities(fake.rows))
            results[metric.function] = found
        result = results[metric.function]
        values[name] = getattr(result, metric.part) if metric.part else result
        values[f"{name}_std"] = getattr(result, f"{metric.part}_std", None)
    return {name: float(value) for name, value in values.items() if value is not None}


def over_blocks(blocks: Sequence[Block]) -> dict[str, Any]:
    """Return the blocks with mean, sample standard deviation (None for one block) and minimum per metric.

    A metric that a block lacks, because its images held NaN, is left out.
    """
    keys = [key for key in blocks[0] if key != "start" and all(key in block for block in blocks)]
    values = {key: torch.tensor([block[key] for block in blocks], dtype=torch.float64) for key in keys}
    several = len(blocks) > 1
    return {
        "blocks": list(blocks),
        "mean": {key: float(value.mean()) for key, value in values.items()},
        "sampling_std": {key: float(value.std()) if several else None for key, value in values.items()},
        "minimum": {key: float(value.min()) for key, value in values.items()},
    }


def _inputs(source: Source, comparisons: Comparisons, start: int, samples: int) -> dict[str, Any]:
    """Return everything that decides a block's result, as plain JSON values."""
    metrics: dict[str, list[str]] = {}
    for comparison in comparisons.values():
        metrics |= comparison.inputs()
    return {
        "source": source.sha256,
        "images": source.facts,
        "start": start,
        "samples": samples,
        "metrics": metrics,
    }


def _known_block(file: Path, inputs: Mapping[str, Any]) -> Block | None:
    """Return what is wanted from a block's file, if that was made from the same inputs and holds it."""
    if not file.exists():
        return None
    content, wanted = read_json(file, dict), inputs["metrics"]
    metrics, result = content.get("metrics"), content.get("result")
    if not (isinstance(metrics, dict) and isinstance(result, dict)):
        return None
    held = {name: made_from for name, made_from in metrics.items() if name in wanted}
    if {**content, "metrics": held} != {**inputs, "result": result}:
        return None
    keys = {"start", *wanted, *(f"{name}_std" for name in wanted)}
    return {key: value for key, value in result.items() if key in keys}


def _removed(folder: Path, there: Mapping[str, Block], inputs: Mapping[str, Any]) -> dict[str, Block]:
    """Return by name block 0 of snapshots that were evaluated and removed, as a recipe's `keep` asks."""
    found = {}
    for file in (folder / BLOCKS).glob("*.block0.json"):
        name = file.name.removesuffix(".block0.json")
        point = _known_block(file, {**inputs, "source": read_json(file, dict).get("source")})
        if point and name not in there:
            found[name] = point
    return found


def _extract(
    source: Source, comparisons: Comparisons, start: int, samples: int, world: World
) -> dict[str, Tensor]:
    """Return the features of all images by extractor, in the main process and on its device."""
    mine = list(world.batches(start, samples, source.batch))
    parts: dict[str, list[Tensor]] = {name: [] for name in comparisons}
    title = f"{Path(source.name).name}, images {start:,} to {start + samples - 1:,}"
    total = sum(size for _, size in mine)
    # Switches of the whole process, which extractors turn while the next images are made.
    with world.same_error(), reproducible_float32(), progress_bar(title, total, shown=world.main) as advance:
        for images in in_turn(source, mine, world.device):
            for name, comparison in comparisons.items():
                parts[name].append(comparison.extractor(images))
            advance(len(images))
    features = {}
    for name, comparison in comparisons.items():
        rows = torch.cat(parts[name]) if mine else torch.zeros(0, comparison.extractor.dimension)
        gathered = world.gather(rows)
        if world.main:
            features[name] = torch.cat(gathered).to(world.device)
    return features


def _context(
    source: Source, comparisons: Comparisons, samples: int, blocks: int, world: World
) -> dict[str, Any]:
    """Return what the metrics mean and what they were made from."""
    extractor, comparison = next(iter(comparisons.items()))  # the evaluation's own comes first
    of = comparison.reference.description
    return {
        **meaning(comparisons, samples),
        "provenance": {
            "samples": samples,
            "blocks": blocks,
            "latent_seed": source.facts.get("seed"),
            "dataset": of.dataset,
            "dataset_sha256": of.dataset_sha256,
            "reference_images": of.count,
            "extractor": extractor,
            "extractor_sha256": comparison.extractor.sha256,
            **environment(world.device),
            **({"processes": world.size} if world.size > 1 else {}),
        },
    }
