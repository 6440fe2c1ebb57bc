"""Precision, recall, density and coverage against the package prdc: time and memory, equal values.

    python benchmarks/neighbours.py --points 20000 --rounds 1 --threads 2 --json neighbours.json

Every measurement is a process of its own, held to as many cores as there are threads (prdc starts eight
threads of its own); the two sides take turns. Memory is the largest resident set of the process, and what
of it came after the features were there. Processor seconds tell a busy machine from a slow side.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from gdd.metrics.neighbours import neighbour_metrics

SIDES = ("gdd", "prdc")
COLUMNS = {
    "seconds": "time, s",
    "processor_seconds": "processor time, s",
    "peak_mebibytes": "peak memory, MiB",
    "mebibytes": "of it beyond the features, MiB",
}


def status(key: str) -> float:
    """Return a number of this process that Linux gives in KiB, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 2**10


def memory_now_and_reset_peak() -> float:
    """Return the memory in use in MiB, from which the peak (VmHWM) then starts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def two_sets(points: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 features that overlap but do not coincide."""
    random = np.random.default_rng(0)
    real, fake = (random.standard_normal((points, dimension), dtype=np.float32) for _ in range(2))
    fake *= 0.98
    fake += 0.05
    return real, fake


def measure(side: str, points: int, dimension: int) -> dict[str, Any]:
    """Return one side's values, with the time and the memory that they took."""
    real, fake = two_sets(points, dimension)
    if side == "prdc":
        from prdc import compute_prdc  # so that its import is in neither measure
    before = memory_now_and_reset_peak()
    began, began_busy = time.perf_counter(), time.process_time()
    if side == "prdc":
        with contextlib.redirect_stdout(io.StringIO()):  # it prints
            values = {name: float(value) for name, value in compute_prdc(real, fake, nearest_k=3).items()}
    else:
        values = neighbour_metrics(torch.from_numpy(real), torch.from_numpy(fake))._asdict()
    seconds, busy = time.perf_counter() - began, time.process_time() - began_busy
    peak = status("VmHWM")
    return {
        "seconds": seconds,
        "processor_seconds": busy,
        "peak_mebibytes": peak,
        "mebibytes": peak - before,
        "values": values,
    }


def in_its_own_process(side: str, points: int, dimension: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--points", str(points)]
    command += ["--dimension", str(dimension), "--threads", str(threads)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=20_000, help="In each of the two sets.")
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = options.points, options.dimension
    if options.side:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.threads :])
        torch.set_num_threads(options.threads)
        with threadpool_limits(options.threads):
            print(json.dumps(measure(options.side, *size)))
        return
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        order = SIDES if number % 2 == 0 else SIDES[::-1]
        rounds.append({side: in_its_own_process(side, *size, options.threads) for side in order})
        for name, value in rounds[-1]["prdc"]["values"].items():
            assert abs(value - rounds[-1]["gdd"]["values"][name]) < 1e-4, name
    summary = {
        key: {side: statistics.median(each[side][key] for each in rounds) for side in SIDES}
        | {"ratio": statistics.median(each["prdc"][key] / each["gdd"][key] for each in rounds)}
        for key in COLUMNS
    }
    print(f"{size[0]:,} x {size[0]:,} points of {size[1]:,} features, {options.threads} threads\n")
    print("| median of rounds | gdd | prdc | prdc over gdd |\n|---|---|---|---|")
    for key, title in COLUMNS.items():
        found = summary[key]
        print(f"| {title} | {found['gdd']:,.1f} | {found['prdc']:,.1f} | x{found['ratio']:.2f} |")
    if options.json:
        facts = {"points": size[0], "dimension": size[1], "threads": options.threads}
        options.json.write_text(json.dumps({**facts, "rounds": rounds, "summary": summary}, indent=2) + "\n")


if __name__ == "__main__":
    main()
