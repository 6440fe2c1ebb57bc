"""How fast image files become an array with one process and with two, and how much memory that takes.

    python benchmarks/preparation.py --images 20000 --rounds 5

A tree of JPEGs of mixed size, as ImageNet has them, is made first. Then one and two workers take turns, so
that what else the machine does affects both alike; two can only be faster where two cores are free.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from gdd.config.records import Dataset
from gdd.data.prepare import prepare

SIZES = [(500, 375), (375, 500), (500, 333), (500, 500), (333, 500), (640, 480), (250, 188), (1200, 900)]
DISTINCT = 200  # images that are encoded; the others are copies of them


def make_tree(root: Path, images: int) -> None:
    """Write JPEGs into 100 class folders; every sixtieth is grey."""
    random = np.random.default_rng(0)
    contents = []
    for number in range(min(DISTINCT, images)):
        width, height = SIZES[number % len(SIZES)]
        coarse = random.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        noisy = np.clip(smooth + random.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        path = root / "image.jpg"
        Image.fromarray(noisy[..., 0] if number % 60 == 59 else noisy).save(path, quality=90)
        contents.append(path.read_bytes())
        path.unlink()
    for number in range(images):
        folder = root / f"n{number % 100:08d}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:08d}.JPEG").write_bytes(contents[number % len(contents)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the tree and the arrays are made")
    options = parser.parse_args()
    record = Dataset(
        title="Tree",
        source="folder",
        transform="center-crop",
        resolution=64,
        channels=3,
        images=options.images,
        classes=0,
    )
    seconds: dict[int, list[float]] = {1: [], 2: []}
    hashes = set()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        raw = Path(scratch) / "raw"
        raw.mkdir()
        make_tree(raw, options.images)
        for number in range(options.rounds):
            for workers in (1, 2) if number % 2 == 0 else (2, 1):
                start = time.perf_counter()
                out = Path(scratch) / f"{number}-{workers}"
                hashes.add(prepare(out, "tree", record, raw, workers=workers).sha256)
                seconds[workers].append(time.perf_counter() - start)
            one, two = seconds[1][-1], seconds[2][-1]
            print(f"round {number + 1}: {one:.1f} s with one worker, {two:.1f} s with two", flush=True)
    assert len(hashes) == 1, "one and two workers gave different arrays"
    for workers, times in seconds.items():
        rate = options.images / statistics.median(times)
        print(f"{workers} {'worker' if workers == 1 else 'workers'}: {rate:.0f} images/s (median)")
    ratios = [one / two for one, two in zip(*seconds.values(), strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"two workers against one: x{statistics.median(ratios):.2f} ({spread})")
    for whose, who in (("parent", resource.RUSAGE_SELF), ("largest worker", resource.RUSAGE_CHILDREN)):
        peak = resource.getrusage(who).ru_maxrss / 1024
        print(f"most memory of the {whose}, libraries included: {peak:.0f} MB")


if __name__ == "__main__":
    main()
