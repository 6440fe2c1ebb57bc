"""Any source of images against a data set's references: every metric asked for, in one pass a block.

What is there when it is interrupted stays: each block's result is a file beside the outcome.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdd.errors import UserError
from gdd.files import read_json, write_json
from gdd.metrics.evaluation import NEAREST, evaluate_block
from gdd.metrics.judges import Judge
from gdd.metrics.outcome import context, machine, summary
from gdd.metrics.sources import BATCH, ImageSource
from gdd.progress import progress_bar
from gdd.provenance import environment
from gdd.training.world import ALONE, World

USUAL_SAMPLES, USUAL_BLOCKS = 50_000, 3
# Images that extractors are given together, whatever a generator is told to make at once: the same ones
# always share a batch, so that features do not depend on how the work is split.
EXTRACTION_BATCH = BATCH


def settle_counts(source: ImageSource, samples: int | None, blocks: int | None) -> tuple[int, int]:
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
    source: ImageSource,
    judges: Mapping[str, Judge],
    out: str | Path,
    *,
    samples: int,
    blocks: int,
    shards: World = ALONE,
) -> dict[str, Any]:
    """Judge `blocks` x `samples` images and write the outcome to `out` (JSON).

    Returns it in the main process, and nothing in the others. A block whose file beside `out` was made from
    the same inputs is not done again.

    Raises:
        UserError: too few images for a metric, or images that cannot be had.
        DivergedError: an image holds NaN or infinity.
    """
    out, began = Path(out), time.monotonic()
    found = [
        judge_block(source, judges, block_file(out, index), index * samples, samples, shards)
        for index in range(blocks)
    ]
    if not shards.main:
        return {}
    outcome = {
        "kind": source.kind,
        "name": Path(source.name).name,
        "sha256": source.sha256,
        "evaluations": source.evaluations,
        "shape": list(source.shape),
        "images": source.facts,
        "samples": samples,
        **summary(found),
        **context(judges, samples),
        "provenance": {**environment(), **machine(), "processes": shards.size},
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(out, outcome)
    return outcome


def block_file(out: Path, index: int) -> Path:
    """Return where a block's result is kept, beside the outcome."""
    return out.with_name(f"{out.stem}.block{index}.json")


def judge_block(
    source: ImageSource,
    judges: Mapping[str, Judge],
    file: Path,
    start: int,
    samples: int,
    shards: World = ALONE,
) -> dict[str, Any]:
    """Return the results of `samples` images from `start` on, in every process.

    They come from `file` if that was made from the same inputs and holds them, and else go there.

    Raises:
        UserError: too few images for a metric, or images that cannot be had.
        DivergedError: an image holds NaN or infinity.
    """
    inputs = _inputs(source, judges, start, samples)
    with shards.same_error():
        known = _known(file, inputs) if shards.main else None
    known = shards.broadcast(known)
    if known is not None:
        return known
    mine = sum(size for _, size in shards.batches(start, samples, EXTRACTION_BATCH))
    name = f"{Path(source.name).name}, images {start:,} to {start + samples - 1:,}"
    with shards.same_error(), progress_bar(name, mine, shown=shards.main) as progress:
        block = evaluate_block(
            source.images,
            start=start,
            count=samples,
            batch=EXTRACTION_BATCH,
            references={name: (judge.extractor, judge.reference) for name, judge in judges.items()},
            metrics={name: set(judge.metrics.values()) for name, judge in judges.items()},
            shards=shards,
            progress=progress,
        )
    result = None
    with shards.same_error():
        if shards.main:
            result = _flat(block, judges, start)
            write_json(file, {"inputs": inputs, "result": result})
    return shards.broadcast(result) or {}


def results_of_gone(
    source: ImageSource, judges: Mapping[str, Judge], file: Path, start: int, samples: int
) -> dict[str, Any] | None:
    """Return the results in `file` of weights that are gone, if they were judged as `source` would be now."""
    if not file.exists():
        return None
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("inputs"), dict):
        return None
    inputs = _inputs(source, judges, start, samples)
    return _known(file, {**inputs, "source": content["inputs"].get("source")})


def _known(file: Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is asked for from a block's file, if it holds that and was made from the same inputs."""
    if not file.exists():
        return None
    content = read_json(file)
    if not isinstance(content, dict) or not _covers(content.get("inputs"), inputs):
        return None
    asked = {metric for judge in inputs["judges"].values() for metric in judge["metrics"]}
    result: dict[str, Any] = content["result"]
    return {
        key: value for key, value in result.items() if key == "start" or key.removesuffix("_std") in asked
    }


def _covers(found: Any, inputs: dict[str, Any]) -> bool:
    """Whether a file's inputs are those asked for; it may hold more metrics, also of further extractors."""
    if not isinstance(found, dict) or found.keys() != inputs.keys():
        return False
    if any(found[key] != inputs[key] for key in inputs if key != "judges"):
        return False
    for name, judge in inputs["judges"].items():
        other = found["judges"].get(name)
        if other is None or {**other, "metrics": None} != {**judge, "metrics": None}:
            return False
        if not set(judge["metrics"]) <= set(other["metrics"]):
            return False
    return True


def _inputs(source: ImageSource, judges: Mapping[str, Judge], start: int, samples: int) -> dict[str, Any]:
    """Return everything that decides a block's results, as plain JSON values."""
    return {
        "source": source.sha256,
        "kind": source.kind,
        "images": source.facts,
        "start": start,
        "samples": samples,
        "judges": {
            name: {
                "extractor": judge.extractor.sha256,
                "definition": judge.extractor.definition,
                "reference": judge.reference_sha256,
                "metrics": sorted(judge.metrics),
            }
            for name, judge in judges.items()
        },
    }


def _flat(block: Mapping[str, Any], judges: Mapping[str, Judge], start: int) -> dict[str, Any]:
    """Return one block's results under their names."""
    flat: dict[str, Any] = {"start": start}
    for name, judge in judges.items():
        for metric, inner in judge.metrics.items():
            if inner == "nearest":
                ratio = block[NEAREST]["ratio_to_real"]
                flat |= {} if ratio is None else {metric: ratio}
            elif inner == "inception_score" and inner not in block[name]:
                raise UserError(
                    f"The extractor {name} gives no class probabilities; leave out the Inception Score."
                )
            else:
                flat[metric] = block[name][inner]
                spread = f"{inner}_std"
                flat |= {f"{metric}_std": block[name][spread]} if spread in block[name] else {}
    return flat
