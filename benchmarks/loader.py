"""How many CIFAR-sized images a second reach training from the array, and from a ZIP of PNGs as released.

    python benchmarks/loader.py --images 50000 --rounds 5 --json loader.json

The other side is written after what the released code does: a data set that opens its ZIP in every worker,
decodes one PNG a call with Pillow, keeps decoded images in a dictionary if it is told to (its default), and
is batched by torch's DataLoader. Its dictionary is filled before the clock starts, which is the best it can
get to. Both sides give shuffled uint8 batches and labels, and do no more than that; both read from
files the kernel has in memory.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from gdd.data.image_array import ImageArray, write
from gdd.data.loader import Batches

SIDE, CLASSES = 32, 10


class ZippedImages(Dataset[tuple[np.ndarray, np.ndarray]]):
    """One PNG out of a ZIP a call, as [3, 32, 32] uint8, and its class as a one-hot vector."""

    def __init__(self, path: Path, labels: np.ndarray, *, cached: bool) -> None:
        self.path = path
        self.names = sorted(name for name in zipfile.ZipFile(path).namelist() if name.endswith(".png"))
        self.labels = labels
        self.cache: dict[int, np.ndarray] | None = {} if cached else None
        self.archive: zipfile.ZipFile | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image = self.cache.get(index) if self.cache is not None else None
        if image is None:
            image = self.decoded(index)
            if self.cache is not None:
                self.cache[index] = image
        label = np.zeros(CLASSES, np.float32)
        label[self.labels[index]] = 1
        return image.copy(), label

    def decoded(self, index: int) -> np.ndarray:
        if self.archive is None:
            self.archive = zipfile.ZipFile(self.path)
        with self.archive.open(self.names[index]) as file:
            return np.array(Image.open(file)).transpose(2, 0, 1)

    def fill(self) -> None:
        for index in range(len(self)):
            self[index]
        self.archive = None  # workers open their own


class Endless(Sampler[int]):
    """Shuffled indices without end."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng(0)
        while True:
            yield from random.permutation(self.count).tolist()


def make_data(folder: Path, count: int) -> tuple[ImageArray, Path]:
    """Write the same images as an array and as a ZIP of PNGs."""
    random = np.random.default_rng(0)
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for index in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
        images[index] = np.clip(smooth + random.integers(-9, 10, smooth.shape, dtype=np.int16), 0, 255)
    labels = np.arange(count) % CLASSES
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_STORED) as archive:
        for index, image in enumerate(images):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG", compress_level=0, optimize=False)
            archive.writestr(f"{index // 1000:05d}/img{index:08d}.png", buffer.getvalue())
    return write(folder / "array", images, labels, {"name": "benchmark"}), folder / "images.zip"


def rate(batches: Iterator[Any], batch: int, seconds: float) -> float:
    """Return images a second, from the fifth batch on."""
    for _ in itertools.islice(batches, 4):
        pass
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for images, *_ in itertools.islice(batches, 10):
            assert len(images) == batch
            count += batch
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="A measurement lasts.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        array, archive = make_data(Path(folder), options.images)
        plain = ZippedImages(archive, array.labels, cached=False)
        cached = ZippedImages(archive, array.labels, cached=True)
        cached.fill()
        assert np.array_equal(cached[7][0], array.images[7].transpose(2, 0, 1))

        def released(data: ZippedImages, workers: int) -> Iterator[Any]:
            return iter(
                DataLoader(
                    data,
                    options.batch,
                    sampler=Endless(len(data)),
                    num_workers=workers,
                    pin_memory=torch.cuda.is_available(),
                    prefetch_factor=2,
                )
            )

        sources: dict[str, Callable[[], Iterator[Any]]] = {
            "array": lambda: Batches(array, 0, options.batch).stream(),
            "array, no thread": lambda: Batches(array, 0, options.batch).stream(prefetch=0),
            "array, with flips": lambda: Batches(array, 0, options.batch, flip=True).stream(),
            "ZIP, 1 worker (its default)": lambda: released(plain, 1),
            "ZIP, 2 workers": lambda: released(plain, 2),
            "ZIP with cache, 1 worker (its default)": lambda: released(cached, 1),
            "ZIP with cache, 2 workers": lambda: released(cached, 2),
        }
        rounds: list[dict[str, float]] = []
        for number in range(options.rounds):
            names = list(sources) if number % 2 == 0 else list(reversed(sources))
            found = {}
            for name in names:
                batches = sources[name]()
                found[name] = rate(batches, options.batch, options.seconds)
                del batches  # ends workers and threads
            rounds.append(found)
    summary = {
        name: {
            "images_per_second": statistics.median(each[name] for each in rounds),
            "array_is_faster_by": statistics.median(each["array"] / each[name] for each in rounds),
        }
        for name in sources
    }
    print("| from | images/s (median) | the array is faster by (median of rounds) |\n|---|---|---|")
    for name, values in summary.items():
        print(f"| {name} | {values['images_per_second']:,.0f} | x{values['array_is_faster_by']:.1f} |")
    if options.json:
        results = {"images": options.images, "batch": options.batch, "rounds": rounds, "summary": summary}
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
