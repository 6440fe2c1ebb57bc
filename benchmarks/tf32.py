"""What TF32 does to a result: runs of the digits with the factors of products as they are, and rounded.

    python benchmarks/tf32.py --method gdd-i --seeds 3 --seconds 3600

The runs are those of the table `demo-seeds`: each seed, and of each teacher. Each is trained by float32
products and by emulated TF32, with the same random numbers, and evaluated as the workflow does it, by float32
products. A GPU's tensor cores take factors of 10 mantissa bits and sum in float32; here the factors of every
convolution and matrix product, forward, backward and in forward mode, are rounded to the nearest such number,
ties away from zero (PTX's `cvt.rna.tf32.f32`). Products of a matrix and a vector are no work of tensor cores.

The teachers `digits` and `digits-b` and what else the runs read is to be there: `snakemake --cores 2 demo
results/teachers/digits-b/model.safetensors` makes it. After `--seconds` nothing new begins; the same command
goes on with what is not done.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gdd import paths
from gdd.commands.distill import training_inputs
from gdd.commands.evaluate import open_all
from gdd.commands.options import Here
from gdd.distill.distill import distill
from gdd.experiments import Run
from gdd.metrics.evaluate import evaluate_run
from gdd.training.world import Execution

TABLE = "demo-seeds"
KINDS = ("float32", "tf32")
aten = torch.ops.aten
FACTORS = {  # which arguments are multiplied with each other
    aten.mm: (0, 1),
    aten.bmm: (0, 1),
    aten.addmm: (1, 2),
    aten.baddbmm: (1, 2),
    aten.convolution: (0, 1),
    aten.convolution_backward: (0, 1, 2),
}


def rounded(x: Tensor) -> Tensor:
    """Return float32 numbers to the nearest of 10 mantissa bits, ties away from zero; others as they are."""
    if x.dtype != torch.float32:
        return x
    return ((x.view(torch.int32) + (1 << 12)) & -(1 << 13)).view(torch.float32)


class RoundedProducts(TorchDispatchMode):
    """Rounds the factors of all products, below autograd: also of those that differentiate."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind, args = func.overloadpacket, list(args)
        if kind not in FACTORS and (kind in flop_registry or "attention" in str(func)):
            raise NotImplementedError(f"Which arguments of {func} are factors is not known here.")
        if kind is aten.convolution_backward and args[10][2]:  # a bias's gradient is a sum, not a product
            summed = args[0].sum([0, *range(2, args[0].ndim)])
            args[10] = [*args[10][:2], False]
            return *self.__torch_dispatch__(func, types, args, kwargs)[:2], summed
        for index in FACTORS.get(kind, ()):
            args[index] = rounded(args[index])
        return func(*args, **(kwargs or {}))


def fid(here: Here, run: Run, kind: str, folder: Path) -> float:
    """Train and evaluate a run, or go on with it, and return its FID at the end."""
    names: dict[str, Any] = {"setting": run.setting, "run": run.id, "seed": run.seed}
    with ExitStack() as stack:
        if kind == "tf32":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # whose products are seen one by one
            stack.enter_context(RoundedProducts())
        inputs = training_inputs(here.stage("distill", **names), here.config.local)
        distill(folder, run.recipe, run.seed, inputs, execution=Execution(device="cpu"))
    evaluation = here.config.settings[run.setting].evaluation
    comparisons = open_all(here, run.setting, here.stage("evaluate_run", **names), torch.device("cpu"))
    return float(evaluate_run(folder, evaluation, comparisons)["final"]["mean"]["fid"])


def print_outcome(found: Mapping[str, Mapping[str, float]]) -> None:
    """Compare both kinds over the runs that both have."""
    exact, coarse = (found[kind] for kind in KINDS)
    say("\n| FID | float32 | TF32 | difference |\n|---|---:|---:|---:|")
    lines = [(exact[run], coarse[run], coarse[run] - exact[run]) for run in exact if run in coarse]
    for run, line in zip(exact, lines, strict=False):
        say(f"| {run} | {line[0]:.3f} | {line[1]:.3f} | {line[2]:+.3f} |")
    if len(lines) < 2:
        return
    for title, of in (
        ("mean", statistics.fmean),
        ("lowest", min),
        ("highest", max),
        ("standard deviation", statistics.stdev),
    ):
        line = [of(column) for column in zip(*lines, strict=True)]
        say(f"| {title} | {line[0]:.3f} | {line[1]:.3f} | {line[2]:+.3f} |")
    differences = [line[2] for line in lines]
    error = statistics.stdev(differences) / len(lines) ** 0.5
    say(f"\nTF32 changes the FID by {statistics.fmean(differences):+.3f}, standard error {error:.3f}.")


def say(line: str) -> None:
    print(line, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="gdd-i", help="a method of the table")
    parser.add_argument("--seeds", type=int, default=3, help="how many of the table's seeds")
    parser.add_argument("--images", type=int, help="of a training; without it, the recipe's")
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which nothing new begins")
    parser.add_argument("--folder", type=Path, default=paths.RESULTS / "tf32", help="receives the runs")
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    torch.set_num_threads(1)  # as the workflow's jobs of the digits
    here = Here(Path(__file__).parents[1] / "config", ())
    runs = [run for row in here.experiments.tables[TABLE] if row.method == options.method for run in row.runs]
    found: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for run in sorted(runs, key=lambda run: run.seed):  # pairs first, so that few of them compare
        images = options.images or run.recipe.images
        recipe = run.recipe.model_copy(update={"images": images, "snapshot_every": images})
        for kind in KINDS:
            start = time.perf_counter()
            if run.seed >= options.seeds or start - begin > options.seconds:
                break
            name = f"{recipe.teacher}, seed {run.seed}"
            folder = options.folder / kind / run.id / f"seed{run.seed}"
            found[kind][name] = fid(here, replace(run, recipe=recipe), kind, folder)
            say(f"{name}, {kind}: FID {found[kind][name]:.3f} after {time.perf_counter() - start:.0f} s")
    print_outcome(found)


if __name__ == "__main__":
    main()
