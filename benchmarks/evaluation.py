"""What judging images costs in one pass, and in the released way; and nearest neighbours against prdc.

    python benchmarks/evaluation.py --images 5000 --neighbours 20000 --rounds 3 --json evaluation.json

The released way writes every image to a PNG file, reads the files again for the FID, packs them into an NPZ,
and extracts from that once more for Inception Score, precision and recall. Both ways have the same uint8
images, the same TorchScript network with Inception-v3's layers and random weights, the same batch, the same
reference, the same functions for the statistics, and give the same numbers to rounding. Making the images
costs both the same and is timed apart. Reported are whole seconds, those of the network, those of the
statistics (moments, Frechet distance, nearest neighbours, Inception Score) and all others, which is what it
takes to get the images from the generator to the network.

The k-nearest-neighbour part compares time and peak memory, each side in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from gdd.metrics import evaluation
from gdd.metrics.frechet import Moments
from gdd.metrics.inception import BATCH, InceptionExtractor
from gdd.metrics.judging import EXTRACTION_BATCH
from gdd.metrics.neighbours import neighbour_metrics
from gdd.metrics.reference import Reference, build_reference

SIDE = 32
PARTS = {
    "all": "all of it, s",
    "network": "the network, s",
    "statistics": "statistics, s",
    "rest": "what is left, s",
}
METRICS = {"fid", "precision", "recall", "inception_score"}


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
    """The seconds that some functions take together."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            found = function(*arguments, **options)
            self.seconds += time.perf_counter() - began
            return found

        return timed


class Timed:
    """An extractor that sums up the seconds its network takes."""

    def __init__(self, inner: InceptionExtractor) -> None:
        self.inner, self.clock = inner, Clock()
        self.name, self.dimension = inner.name, inner.dimension
        self.sha256, self.definition = inner.sha256, inner.definition
        self.features_and_probabilities = self.clock.wrap(inner.features_and_probabilities)
        self.features = self.clock.wrap(inner)

    def __call__(self, images: Tensor) -> Tensor:
        found: Tensor = self.features(images)
        return found


STATISTICS = Clock()
Moments.update = STATISTICS.wrap(Moments.update)  # type: ignore[method-assign]
for name in ("frechet_distance", "neighbour_metrics", "inception_score"):
    setattr(evaluation, name, STATISTICS.wrap(getattr(evaluation, name)))


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

    moments = Moments(extractor.dimension)
    for start in range(0, len(files), EXTRACTION_BATCH):
        moments.update(extractor(read(files[start : start + EXTRACTION_BATCH])))
    fid = evaluation.frechet_distance(moments.gaussian(), reference.gaussian)

    np.savez(folder / "samples.npz", read(files).numpy())
    packed = torch.from_numpy(np.load(folder / "samples.npz")["arr_0"])
    parts = [extractor.features_and_probabilities(part) for part in packed.split(EXTRACTION_BATCH)]
    features, probabilities = (torch.cat(part) for part in zip(*parts, strict=True))
    score, _ = evaluation.inception_score(probabilities)
    found = evaluation.neighbour_metrics(reference.features, features)
    return {"fid": fid, "precision": found.precision, "recall": found.recall, "inception_score": score}


def read(files: list[Path]) -> Tensor:
    return torch.from_numpy(np.stack([np.array(Image.open(file)) for file in files]))


def compare_passes(count: int, rounds: int, features: int) -> dict[str, Any]:
    """Time both ways over the same images, in turn, the first of them changing every round."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(Inception(features).eval()).save(Path(folder) / "net.pt")
        extractor = Timed(InceptionExtractor(Path(folder) / "net.pt"))
        reference = build_reference(
            some_images(count, 1),
            extractor.inner,
            dataset="smooth noise",
            dataset_sha256="0" * 64,
            path=Path(folder) / "reference.npz",
        )
        began = time.perf_counter()
        images = some_images(count, 2)
        making = time.perf_counter() - began

        def timed(way: Callable[[], dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
            extractor.clock.seconds = STATISTICS.seconds = 0.0
            began = time.perf_counter()
            values = way()
            whole = time.perf_counter() - began
            parts = {"network": extractor.clock.seconds, "statistics": STATISTICS.seconds}
            return {"all": whole, **parts, "rest": whole - sum(parts.values())}, values

        found: list[dict[str, Any]] = []
        for number in range(rounds):
            results: dict[str, Any] = {}
            for name in ("pass", "released")[:: 1 if number % 2 == 0 else -1]:
                with tempfile.TemporaryDirectory() as place:
                    results[name], values = timed(
                        (lambda: one_pass(images, extractor, reference))
                        if name == "pass"
                        else (lambda into=Path(place): released_way(images, extractor, reference, into))
                    )
                    results[f"{name}_values"] = values
            for metric, value in results["pass_values"].items():
                assert np.isclose(value, results["released_values"][metric], rtol=1e-4), metric
            found.append(results)
    ratios = {
        key: statistics.median(each["released"][key] / each["pass"][key] for each in found) for key in PARTS
    }
    return {
        "images": count,
        "features": extractor.dimension,
        "network_batch": BATCH,
        "making_the_images": making,
        "rounds": found,
        "faster": ratios,
    }


def status(key: str) -> float:
    """Return a number of this process that Linux gives in KiB, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 2**10


def memory_now_and_reset_peak() -> float:
    """Return the memory in use in MiB, from which the peak (VmHWM) then starts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def neighbours(side: str, count: int, dimension: int) -> dict[str, Any]:
    """Return precision and so on by one side, with time and the memory that it took beyond the features."""
    random = np.random.default_rng(0)
    real = random.normal(size=(count, dimension)).astype(np.float32)
    fake = random.normal(0.05, 0.98, size=(count, dimension)).astype(np.float32)
    if side == "prdc":
        from prdc import compute_prdc  # so that its import is in neither measure
    before = memory_now_and_reset_peak()
    began = time.perf_counter()
    if side == "prdc":
        values = {name: float(value) for name, value in compute_prdc(real, fake, nearest_k=3).items()}
    else:
        values = neighbour_metrics(torch.from_numpy(real), torch.from_numpy(fake))._asdict()
    seconds = time.perf_counter() - began
    memory = status("VmHWM") - before
    return {"seconds": seconds, "mebibytes": memory, "values": values}


def compare_neighbours(count: int, dimension: int, threads: int) -> dict[str, Any]:
    found = {}
    for side in ("gdd", "prdc"):
        command = [sys.executable, __file__, "--side", side, "--neighbours", str(count)]
        command += ["--dimension", str(dimension), "--threads", str(threads)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[side] = json.loads(output.splitlines()[-1])
    for name, value in found["prdc"]["values"].items():
        assert abs(value - found["gdd"]["values"][name]) < 1e-3, name
    return {"points": count, "dimension": dimension, **found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2100, help="More than features.")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--features", type=int, default=2048, help="Of the network; fewer than 2048 makes it a cheap one."
    )
    parser.add_argument("--neighbours", type=int, default=2000, help="Points in each of the two sets.")
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=["gdd", "prdc"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.side:
        print(json.dumps(neighbours(options.side, options.neighbours, options.dimension)))
        return
    passes = compare_passes(options.images, options.rounds, options.features)
    nearest = compare_neighbours(options.neighbours, options.dimension, options.threads)
    print(f"making the images: {passes['making_the_images']:.2f} s, before either way")
    print("| after the images are made | one pass | released way | faster by (median) |\n|---|---|---|---|")
    for key, title in PARTS.items():
        times = [
            statistics.median(each[name][key] for each in passes["rounds"]) for name in ("pass", "released")
        ]
        print(f"| {title} | {times[0]:.2f} | {times[1]:.2f} | x{passes['faster'][key]:.2f} |")
    print("\n| k nearest neighbours | gdd | prdc |\n|---|---|---|")
    for key, title in (("seconds", "time, s"), ("mebibytes", "memory beyond the features, MiB")):
        print(f"| {title} | {nearest['gdd'][key]:,.2f} | {nearest['prdc'][key]:,.2f} |")
    if options.json:
        options.json.write_text(json.dumps({"pass": passes, "neighbours": nearest}, indent=2) + "\n")


if __name__ == "__main__":
    main()
