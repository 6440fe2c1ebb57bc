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
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from PIL import Image
from prdc import prdc
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from gdd.metrics import evaluation
from gdd.metrics.frechet import Moments
from gdd.metrics.inception import BATCH, InceptionExtractor
from gdd.metrics.judging import EXTRACTION_BATCH
from gdd.metrics.reference import Reference, build_reference

SIDE = 32
PARTS = {
    "all": "all of it, s",
    "network": "the network, s",
    "other": "all but the network, s",
    "statistics": "of that, statistics, s",
    "images": "of that, images from the generator to the network, s",
}
METRICS = {"fid", "precision", "recall", "inception_score"}
WAYS = ("pass", "released")


class Inception(nn.Module):
    """Torchvision's Inception-v3 behind the interface of the published network, at its 299x299."""

    def __init__(self, pool: int) -> None:
        super().__init__()
        if pool == 2048:
            from torchvision.models import Inception3

            whole = Inception3(num_classes=8, aux_logits=False, init_weights=False).eval()
            names = list(dict(whole.named_children()))
            trunk = [
                child for name, child in whole.named_children() if name in names[: names.index("avgpool")]
            ]
        else:
            trunk = [nn.Conv2d(3, pool, 16, stride=16), nn.ReLU()]  # to try the benchmark itself out
        self.layers = nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1))
        self.output = nn.Linear(pool, 1008)

    def forward(
        self,
        img: Tensor,
        return_features: bool = False,
        use_fp16: bool = False,  # noqa: ARG002 - part of the interface
        no_output_bias: bool = False,
    ) -> Tensor:
        x = F.interpolate(img.to(torch.float32), size=(299, 299), mode="bilinear", align_corners=False)
        features = self.layers((x - 128) / 128).flatten(1)
        if return_features:
            return features
        logits = F.linear(features, self.output.weight) if no_output_bias else self.output(features)
        return logits.softmax(dim=1)


class Clock:
    """The seconds that some functions take together: of the wall's clock, or of processors."""

    now = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            began = Clock.now()
            found = function(*arguments, **options)
            self.seconds += Clock.now() - began
            return found

        return timed


class Timed:
    """The extractor, with the seconds its network took on some of the images and those it stands for."""

    def __init__(self, inner: InceptionExtractor, every: int) -> None:
        self.every = every
        self.name, self.dimension = inner.name, inner.dimension
        self.sha256, self.definition = inner.sha256, inner.definition
        self.ran, self.stands_for, self.projecting = Clock(), 0.0, Clock()
        self._features = self.ran.wrap(inner)
        self._both = self.ran.wrap(inner.features_and_probabilities)
        self._project = self.projecting.wrap(self._projected)
        draw = torch.Generator().manual_seed(5)
        self._into_features = torch.randn(3 * SIDE * SIDE, self.dimension, generator=draw) / 55
        self._into_classes = torch.randn(self.dimension, 1008, generator=draw) / 45

    def __call__(self, images: Tensor) -> Tensor:
        features: Tensor = self._share(images, self._features)
        return features if self.every == 1 else self._project(images)[0]

    def features_and_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the inner extractor does."""
        both: tuple[Tensor, Tensor] = self._share(images, self._both)
        return both if self.every == 1 else self._project(images)

    def reset(self) -> None:
        """Count from nothing."""
        self.ran.seconds = self.stands_for = self.projecting.seconds = 0.0

    def _share(self, images: Tensor, run: Callable[[Tensor], Any]) -> Any:
        before, some = self.ran.seconds, images[: -(-len(images) // self.every)]
        found = run(some)
        self.stands_for += (self.ran.seconds - before) * len(images) / len(some)
        return found

    def _projected(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = ((images.flatten(1).float() / 128 - 1) @ self._into_features).relu()
        return features, (features @ self._into_classes).double().softmax(dim=1)


STATISTICS = Clock()
timed_statistic = STATISTICS.wrap


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


def released_way(
    images: np.ndarray, extractor: Timed, reference: Reference, folder: Path
) -> dict[str, float]:
    """Return the metrics by way of files, with one extraction for FID and one for all others."""
    for index, image in enumerate(images):
        place = folder / f"{index - index % 1000:06d}"
        place.mkdir(exist_ok=True)
        Image.fromarray(image).save(place / f"{index:06d}.png")
    files = sorted(folder.rglob("*.png"))

    sums = torch.zeros(extractor.dimension, dtype=torch.float64)
    products = torch.zeros(extractor.dimension, extractor.dimension, dtype=torch.float64)
    for start in range(0, len(files), EXTRACTION_BATCH):
        add_up(sums, products, extractor(read(files[start : start + EXTRACTION_BATCH])))
    fid = distance_by_square_root(sums, products, len(files), reference)

    np.savez(folder / "samples.npz", read(files).numpy())
    packed = torch.from_numpy(np.load(folder / "samples.npz")["arr_0"])
    parts = [extractor.features_and_probabilities(part) for part in packed.split(EXTRACTION_BATCH)]
    features, probabilities = (torch.cat(part) for part in zip(*parts, strict=True))
    found = prdc_metrics(reference.features.numpy(), features.numpy())
    return {
        "fid": fid,
        "precision": found["precision"],
        "recall": found["recall"],
        "inception_score": score(probabilities.numpy()),
    }


def read(files: list[Path]) -> Tensor:
    return torch.from_numpy(np.stack([np.array(Image.open(file)) for file in files]))


@timed_statistic
def add_up(sums: Tensor, products: Tensor, features: Tensor) -> None:
    precise = features.to(torch.float64)
    sums += precise.sum(dim=0)
    products += precise.T @ precise


@timed_statistic
def distance_by_square_root(sums: Tensor, products: Tensor, count: int, reference: Reference) -> float:
    mean = sums / count
    covariance = ((products - torch.outer(mean, mean) * count) / (count - 1)).numpy()
    real = reference.gaussian.covariance.numpy()
    root = scipy.linalg.sqrtm(covariance @ real)
    offset = np.square(mean.numpy() - reference.gaussian.mean.numpy()).sum()
    return float(np.real(offset + np.trace(covariance + real - 2 * root)))


@timed_statistic
def prdc_metrics(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        return {name: float(value) for name, value in prdc.compute_prdc(real, fake, nearest_k=3).items()}


@timed_statistic
def score(probabilities: np.ndarray) -> float:
    scores = []
    for part in np.array_split(probabilities, 10):
        divergence = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(np.exp(divergence.sum(axis=1).mean()))
    return float(np.mean(scores))


def measured(way: Callable[[], dict[str, float]], extractor: Timed) -> dict[str, Any]:
    """Return the seconds of each part and the values."""
    extractor.reset()
    STATISTICS.seconds = 0.0
    began = Clock.now()
    values = way()
    other = Clock.now() - began - extractor.ran.seconds - extractor.projecting.seconds
    parts = {
        "network": extractor.stands_for,
        "other": other,
        "statistics": STATISTICS.seconds,
        "images": other - STATISTICS.seconds,
    }
    return {"all": extractor.stands_for + other, **parts, "values": values}


def compare(count: int, rounds: int, features: int, every: int) -> dict[str, Any]:
    """Time both ways over the same images, in turn, the first of them changing every round."""
    # What a pass does between the network and its numbers, which the other way has its own functions for.
    Moments.update = timed_statistic(Moments.update)  # type: ignore[method-assign]
    for name in ("frechet_distance", "neighbour_metrics", "inception_score"):
        setattr(evaluation, name, timed_statistic(getattr(evaluation, name)))
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(Inception(features).eval()).save(Path(folder) / "net.pt")
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
            print(f"round {number + 1}: {ratio(results, 'all'):.2f} times faster", flush=True)
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
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.threads :])
    torch.set_num_threads(options.threads)
    if options.processor_time:
        Clock.now = staticmethod(time.process_time)
    with threadpool_limits(options.threads):
        found = compare(options.images, options.rounds, options.features, options.network_every)
    rounds = found["rounds"]
    medians = {
        name: {key: statistics.median(each[name][key] for each in rounds) for key in PARTS} for name in WAYS
    }
    faster = {key: statistics.median(ratio(each, key) for each in rounds) for key in PARTS}
    print(f"making {options.images:,} images: {found['making_the_images']:.2f} s, before either way\n")
    print("| after the images are made | one pass | released way | faster by (median) |\n|---|---|---|---|")
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
        options.json.write_text(
            json.dumps({**facts, **found, "median": medians, "faster": faster}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
