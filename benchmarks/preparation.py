"""How fast image files become an array with one and with two processes, and how much memory that takes.

    python benchmarks/preparation.py --images 20000 --rounds 5 --json preparation.json

A tree of JPEGs of mixed size, as ImageNet has them, is made first. Runs with one and with two workers take
turns; the ratio of a round is free of slow changes in what else the machine does, but two workers can only
show their worth where two cores are free: each round says how busy others kept them. A quarter of the images
takes as much memory as all of them where memory is constant.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

SIZES = [(500, 375), (375, 500), (500, 333), (500, 500), (333, 500), (640, 480), (250, 188), (1200, 900)]
DISTINCT = 200  # images that are encoded; the others are copies of them

RUN = """
import json, sys, time
from pathlib import Path
from gdd.config.records import Dataset
from gdd.data.prepare import prepare
out, raw, images, workers = sys.argv[1:]
record = Dataset(title="Tree", source="folder", transform="center-crop", resolution=64, channels=3,
                 images=int(images), classes=0)
start = time.perf_counter()
array = prepare(Path(out), "tree", record, Path(raw), workers=int(workers))
print(json.dumps({"seconds": time.perf_counter() - start, "sha256": array.sha256}))
"""


def make_tree(root: Path, images: int) -> None:
    """Write `images` JPEGs into four folders with 25 class folders each."""
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
        folder = root / f"quarter{number % 4}" / f"n{number // 4 % 25:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:08d}.JPEG").write_bytes(contents[number % len(contents)])


def memory(pid: int) -> float:
    """Return what a process has of memory for itself in MB; libraries and cached files do not count."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
    except (OSError, StopIteration):
        return 0.0


def workers_of(pid: int) -> list[int]:
    """Return a process's workers; one that was only just forked would still show its parent's memory."""
    try:
        children = psutil.Process(pid).children()
        return [child.pid for child in children if any("spawn_main" in word for word in child.cmdline())]
    except psutil.Error:
        return []


def busy() -> float:
    """Return the processor time of the whole machine so far in seconds."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def own() -> float:
    """Return the processor time of this process and of all that have ended below it, in seconds."""
    times = psutil.Process().cpu_times()
    return float(sum(times[:4]))


def run(scratch: Path, raw: Path, images: int, workers: int) -> dict[str, Any]:
    """Prepare the images once; return seconds, the content's hash, and the largest process of each kind."""
    out = scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", RUN, str(out), str(raw), str(images), str(workers)]
    start, busy_before, own_before = time.perf_counter(), busy(), own()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    parent = child = 0.0
    while process.poll() is None:
        parent = max(parent, memory(process.pid))
        child = max([child, *map(memory, workers_of(process.pid))])
        time.sleep(0.1)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    others = (busy() - busy_before - (own() - own_before)) / (time.perf_counter() - start)
    facts = {"parent_mb": parent, "worker_mb": child, "images": images, "others_cores": max(others, 0.0)}
    return {**json.loads(output), **facts}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="Where the tree and the arrays are made.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    images = options.images // 4 * 4
    scratch = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        raw = scratch / "raw"
        raw.mkdir()
        make_tree(raw, images)
        quarter = run(scratch, raw / "quarter0", images // 4, 2)
        rounds = []
        for number in range(options.rounds):
            order = (1, 2) if number % 2 == 0 else (2, 1)
            rounds.append({workers: run(scratch, raw, images, workers) for workers in order})
            one, two = rounds[-1][1], rounds[-1][2]
            others = max(one["others_cores"], two["others_cores"])
            print(
                f"round {number + 1}: {one['seconds']:.1f} s with one worker, "
                f"{two['seconds']:.1f} s with two, "
                f"others kept up to {others:.1f} cores busy",
                flush=True,
            )
    finally:
        shutil.rmtree(scratch)
    hashes = {result["sha256"] for each in rounds for result in each.values()}
    assert len(hashes) == 1, "one and two workers gave different arrays"
    ratios = [each[1]["seconds"] / each[2]["seconds"] for each in rounds]
    print("\n| workers | images/s (median) | largest parent, MB | largest worker, MB |\n|---|---|---|---|")
    for workers in (1, 2):
        rate = statistics.median(images / each[workers]["seconds"] for each in rounds)
        parent = max(each[workers]["parent_mb"] for each in rounds)
        worker = max(each[workers]["worker_mb"] for each in rounds)
        print(f"| {workers} | {rate:.0f} | {parent:.0f} | {worker:.0f} |")
    print(f"| 2, a quarter of the images | | {quarter['parent_mb']:.0f} | {quarter['worker_mb']:.0f} |")
    print(
        f"\ntwo workers against one: x{statistics.median(ratios):.2f} (median of {len(ratios)} rounds, "
        f"{min(ratios):.2f} to {max(ratios):.2f})"
    )
    if options.json:
        results = {"images": images, "rounds": rounds, "quarter": quarter, "ratio": statistics.median(ratios)}
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
