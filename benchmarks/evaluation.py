"""What judging images costs in one pass, and in the released way.

    python benchmarks/evaluation.py --images 5000 --rounds 3 --threads 2 --json evaluation.json

The released way writes every image to a PNG file, reads the files again for the FID (sums in float64, the
matrix square root by scipy), packs them into an NPZ, and extracts from that once more for Inception Score,
precision and recall (by the package prdc). Both ways have the same uint8 images, the same TorchScript network
with Inception-v3's layers and random weights, the same batch and the same reference, and give the same
numbers to rounding. Making the images costs both the same and is timed apart.

The network takes nearly all of the time, the same for every image. With `--network-every N` it runs on one
image in N of every batch, whose time counts N times, and the features of all come from a cheap projection,
whose time does not count; with 1 everything is what it seems.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inception_cost import SIDE, STATISTICS, Clock, Timed, write_network
from released_evaluation import released_way
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from gdd.metrics import evaluation
from gdd.metrics.frechet import Moments
from gdd.metrics.inception import BATCH, InceptionExtractor
from gdd.metrics.judging import EXTRACTION_BATCH
from gdd.metrics.reference import Reference, build_reference

PARTS = {
    "all": "all of it",
    "network": "the network",
    "other": "all but the network",
    "images": "of that, images from the generator to the network",
    **{name: f"of that, {name}" for name in STATISTICS},
}
METRICS = {"fid", "precision", "recall", "inception_score"}
WAYS = ("pass", "released")


def some_images(count: int, seed: int) -> np.ndarray:
    """Return images that are smooth enough for PNG to have something to do."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.random((count, 3, 5, 5), dtype=np.float32))
    smooth = F.interpolate(coarse, size=SIDE, mode="bicubic", align_corners=True)
    images = (255 * smooth + torch.from_numpy(random.normal(0, 6, smooth.shape))).clip(0, 255)
    return images.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def one_pass(images: np.ndarray, extractor: Timed, reference: Reference) -> dict[str, float]:
    """Return the metrics as `gdd evaluate` computes them."""
    block = evaluation.evaluate_block(
        lambda first, count: torch.from_numpy(images[first : first + count]),
        start=0,
        count=len(images),
        batch=EXTRACTION_BATCH,
        references={"judge": (extractor, reference)},
        metrics=METRICS,
    )["judge"]
    return {name: block[name] for name in METRICS}


def measured(way: Callable[[], dict[str, float]], extractor: Timed) -> dict[str, Any]:
    """Return the seconds of each part and the values."""
    extractor.reset()
    began = Clock.now()
    values = way()
    other = Clock.now() - began - extractor.ran.seconds - extractor.projecting.seconds
    parts = {name: clock.seconds for name, clock in STATISTICS.items()}
    return {
        "all": extractor.stands_for + other,
        "network": extractor.stands_for,
        "other": other,
        "images": other - sum(parts.values()),
        **parts,
        "values": values,
    }


def time_statistics() -> None:
    """Put the clocks to what a pass does between the network and its numbers."""
    for name in ("update", "gaussian"):
        setattr(Moments, name, STATISTICS["moments"].wrap(getattr(Moments, name)))
    for name, clock in (
        ("frechet_distance", "Frechet distance"),
        ("neighbour_metrics", "neighbours"),
        ("inception_score", "Inception Score"),
    ):
        setattr(evaluation, name, STATISTICS[clock].wrap(getattr(evaluation, name)))


def compare(count: int, rounds: int, features: int, every: int) -> dict[str, Any]:
    """Time both ways over the same images, in turn, the first of them changing every round."""
    with tempfile.TemporaryDirectory() as folder:
        write_network(features, Path(folder) / "net.pt")
        extractor = Timed(InceptionExtractor(Path(folder) / "net.pt"), every)
        reference = build_reference(
            some_images(count, 1),
            extractor,
            dataset="smooth noise",
            dataset_sha256="0" * 64,
            path=Path(folder) / "reference.npz",
        )
    began = Clock.now()
    images = some_images(count, 2)
    making = Clock.now() - began
    found: list[dict[str, Any]] = []
    for number in range(rounds):
        results: dict[str, Any] = {}
        for name in WAYS[:: 1 if number % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory() as place:
                ways = {
                    "pass": lambda: one_pass(images, extractor, reference),
                    "released": lambda into=Path(place): released_way(images, extractor, reference, into),
                }
                results[name] = measured(ways[name], extractor)
        for metric, value in results["pass"]["values"].items():
            assert np.isclose(value, results["released"]["values"][metric], rtol=1e-4), metric
        found.append(results)
        print(f"round {number + 1}: x{ratio(results, 'all'):.2f}", flush=True)
    return {"making_the_images": making, "rounds": found}


def ratio(results: dict[str, Any], key: str) -> float:
    """Return how many times faster the pass is in one round."""
    return float(results["released"][key] / results["pass"][key])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000, help="More than features.")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--network-every", type=int, default=8, help="See above.")
    parser.add_argument("--features", type=int, default=2048, help="Fewer than 2048 make it a cheap network.")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--processor-time", action="store_true", help="For a machine that others keep busy.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # The released way's libraries would take more cores than they are given threads.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.threads :])
    torch.set_num_threads(options.threads)
    if options.processor_time:
        Clock.now = staticmethod(time.process_time)
    time_statistics()
    with threadpool_limits(options.threads):
        found = compare(options.images, options.rounds, options.features, options.network_every)
    rounds = found["rounds"]
    medians = {
        name: {key: statistics.median(each[name][key] for each in rounds) for key in PARTS} for name in WAYS
    }
    faster = {key: statistics.median(ratio(each, key) for each in rounds) for key in PARTS}
    print(f"making {options.images:,} images: {found['making_the_images']:.2f} s, before either way\n")
    print("| seconds after that (median) | one pass | released way | faster by |\n|---|---|---|---|")
    for key, title in PARTS.items():
        ours, theirs = (medians[name][key] for name in WAYS)
        print(f"| {title} | {ours:.2f} | {theirs:.2f} | x{faster[key]:.2f} |")
    if options.json:
        facts = {
            "images": options.images,
            "threads": options.threads,
            "network_every": options.network_every,
            "network_batch": BATCH,
            "clock": "processor" if options.processor_time else "wall",
        }
        results = {**facts, **found, "median": medians, "faster": faster}
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
