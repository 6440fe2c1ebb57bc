"""One pass over images feeds every metric, block by block; blocks that are done survive an interruption."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.files import read_json, write_json
from gdd.metrics.comparison import Comparisons, meaning
from gdd.metrics.sources import BATCH, Source
from gdd.progress import progress_bar
from gdd.provenance import environment
from gdd.training.world import ALONE, World

USUAL_SAMPLES, USUAL_BLOCKS = 50_000, 3


def settle_counts(source: Source, samples: int | None, blocks: int | None) -> tuple[int, int]:
    """Return how many images a block has and how many blocks there are: as asked for, or as usual.

    Raises:
        UserError: a set of images has fewer, or fewer than usual and nobody said that these are meant.
    """
    if source.count is None:
        return samples or USUAL_SAMPLES, blocks or USUAL_BLOCKS
    if samples is None and source.count < USUAL_SAMPLES:
        raise UserError(
            f"{source.name} holds {source.count:,} images instead of the usual {USUAL_SAMPLES:,}, on whose "
            f"number most metrics depend; say --samples {source.count} if these are meant."
        )
    samples = samples or USUAL_SAMPLES
    most = source.count // samples
    if most < (blocks or 1):
        raise UserError(
            f"{source.name} holds {source.count:,} images, too few for {blocks or 1} x {samples:,}; "
            "ask for fewer samples or blocks."
        )
    return samples, blocks or min(most, USUAL_BLOCKS)


def evaluate_source(
    source: Source,
    comparisons: Comparisons,
    out: str | Path,
    *,
    samples: int,
    blocks: int,
    world: World = ALONE,
) -> dict[str, Any]:
    """Evaluate `blocks` x `samples` images, write the outcome to `out` (JSON), and return it.

    A block whose file beside `out` was made from the same inputs is not done again.

    Raises:
        UserError: too few images for a metric, or images that cannot be had.
        DivergedError: an image holds NaN or infinity.
    """
    out, began = Path(out), time.monotonic()
    found = evaluate_blocks(source, comparisons, out, samples, blocks, world)
    outcome = {
        "kind": source.kind,
        "name": Path(source.name).name,
        "sha256": source.sha256,
        "evaluations": source.evaluations,
        "shape": list(source.shape),
        "images": source.facts,
        "samples": samples,
        **over_blocks(found),
        **meaning(comparisons, samples),
        "provenance": {**environment(world.device), "processes": world.size},
        "seconds": round(time.monotonic() - began, 1),
    }
    if world.main:
        write_json(out, outcome)
    return outcome


def evaluate_blocks(
    source: Source, comparisons: Comparisons, out: Path, samples: int, count: int, world: World
) -> list[dict[str, Any]]:
    """Return the results of the first `count` blocks; each is also a file beside `out`."""
    return [
        evaluate_block(source, comparisons, block_file(out, index), index * samples, samples, world)
        for index in range(count)
    ]


def block_file(out: Path, index: int) -> Path:
    """Return where a block's result is kept."""
    return out.with_name(f"{out.stem}.block{index}.json")


def evaluate_block(
    source: Source, comparisons: Comparisons, file: Path, start: int, samples: int, world: World = ALONE
) -> dict[str, Any]:
    """Return `start` and the metrics of `samples` images from there on, in every process.

    They come from `file` if that was made from the same inputs and holds them, and else go there.

    Raises:
        UserError: too few images for a metric, or images that cannot be had.
        DivergedError: an image holds NaN or infinity.
    """
    with world.same_error():
        known = known_block(source, comparisons, file, start, samples) if world.main else None
        for comparison in comparisons.values():
            comparison.check(samples)
    known = world.broadcast(known)
    if known is not None:
        return known
    features = _extract(source, comparisons, start, samples, world)
    result: dict[str, Any] = {"start": start}
    with world.same_error():
        if world.main:
            for name, comparison in comparisons.items():
                result |= comparison.results(features[name])
            write_json(file, {**_inputs(source, comparisons, start, samples), "result": result})
    return world.broadcast(result)


def known_block(
    source: Source,
    comparisons: Comparisons,
    file: Path,
    start: int,
    samples: int,
    *,
    any_weights: bool = False,
) -> dict[str, Any] | None:
    """Return what is asked for from a block's file, if that was made from the same inputs and holds it.

    With `any_weights`, it may be of other weights than the source's.
    """
    if not file.exists():
        return None
    content, inputs = read_json(file), _inputs(source, comparisons, start, samples)
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
        return None
    same = inputs.keys() - {"metrics", *(["source"] if any_weights else [])}
    if any(content.get(key) != inputs[key] for key in same):
        return None
    if any(content["metrics"].get(name) != made_from for name, made_from in inputs["metrics"].items()):
        return None
    asked = {"start", *inputs["metrics"], *(f"{name}_std" for name in inputs["metrics"])}
    return {key: value for key, value in content["result"].items() if key in asked}


def over_blocks(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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
        "kind": source.kind,
        "images": source.facts,
        "start": start,
        "samples": samples,
        "metrics": metrics,
    }


def _extract(
    source: Source, comparisons: Comparisons, start: int, samples: int, world: World
) -> dict[str, Tensor]:
    """Return the features of all images by extractor, in the main process and on its device."""
    mine = list(world.batches(start, samples, BATCH))
    parts: dict[str, list[Tensor]] = {name: [] for name in comparisons}
    title = f"{Path(source.name).name}, images {start:,} to {start + samples - 1:,}"
    total = sum(size for _, size in mine)
    with world.same_error(), progress_bar(title, total, shown=world.main) as advance:
        for first, size in mine:
            images = source.images(first, size)
            for name, comparison in comparisons.items():
                parts[name].append(comparison.extractor(images))
            advance(size)
    features = {}
    for name, comparison in comparisons.items():
        rows = torch.cat(parts[name]) if mine else torch.zeros(0, comparison.extractor.dimension)
        gathered = world.gather(rows)
        if world.main:
            features[name] = torch.cat(gathered).to(world.device)
    return features
