"""How fast a student trains, beside the released order of operations in plain eager PyTorch.

    python benchmarks/iteration.py --setting cifar10-uncond --method gdd --batch 64 --seconds 90

Ours is a student as `gdd distill` trains it, the other is `gdd.probe.plain`; both have the same random
weights. First the losses and gradients of each are compared with those in float64 on the CPU, for two images:
where ours are further away than the rounding of plain eager explains, nothing is measured. Then all take
turns, so that what else the machine does affects them alike; what counts is the ratio within a round. A step
with R1 is timed by itself; what it takes beside an ordinary one counts for a sixteenth, as it is due every 16
iterations. After `--seconds` nothing new begins; one turn of what is under way ends.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gdd.config.config import load_config
from gdd.distill.at_once import memory_is_full
from gdd.experiments import Experiments
from gdd.networks.group_norm import GroupNorm, fused_group_norms
from gdd.probe.errors import Exact, explained, products, step_batch
from gdd.probe.plain import PlainTrainer
from gdd.probe.random_run import RandomRun, random_run, recipe_of
from gdd.probe.rates import OtherLayout, now, ordinary_step, r1_step, release
from gdd.training.world import World, own_device

PLAIN, OURS = "the release's order", "ours"
TURN = 1.0  # seconds that a turn of steps lasts at least


class Contender(NamedTuple):
    """Something that trains: a step without R1, a step of R1 alone or with R1, and how it is to be timed."""

    step: Callable[[], object]
    r1: Callable[[], object]
    r1_alone: bool  # whether `r1` has no ordinary step in it
    tf32: bool = False
    fused: bool = False

    @contextmanager
    def choices(self) -> Iterator[None]:
        with products(tf32=self.tf32), fused_group_norms(self.fused):
            yield


class Times(NamedTuple):
    step: float  # seconds
    r1: float

    def iteration(self, every: int) -> float:
        return self.step + self.r1 / every


class Candidate(NamedTuple):
    """What could be done otherwise than in the papers' recipe on this device."""

    recipe: Mapping[str, Any] = {}
    tf32: bool = False
    other_layout: bool = False
    cuda_graphs: bool = False
    fused: bool = False  # group norm and SiLU by our own kernels


def candidates(gpu: bool) -> dict[str, Candidate]:
    """Return each candidate alone, and those together that a run on this device could take."""
    alone = {
        "float32 U-Net": Candidate({"precision": "float32"}),
        "reused fakes": Candidate({"reuse_fakes": True}),
        "other memory format": Candidate(other_layout=True),
    }
    if gpu:
        alone["CUDA graphs"] = Candidate(cuda_graphs=True)
        if kernels_run():
            alone["our group norm"] = Candidate(fused=True)
            alone["our group norm, CUDA graphs"] = Candidate(fused=True, cuda_graphs=True)
        together = {name: of._replace(tf32=True) for name, of in alone.items() if not of.other_layout}
        alone |= {"TF32": Candidate(tf32=True)} | {f"TF32, {name}": of for name, of in together.items()}
    return {f"{OURS}, {name}": of for name, of in alone.items()}


def kernels_run() -> bool:
    """Whether Triton compiles our kernels of group norm here, for which it wants a C compiler."""
    x = torch.zeros(1, 8, 4, 4, device="cuda").contiguous(memory_format=torch.channels_last)
    try:
        with fused_group_norms(True):
            GroupNorm(8, 1e-6, silu=True).cuda()(x)
    except Exception as error:  # whatever it is, the rest can be measured
        say(f"our kernels of group norm do not run here: {error}")
        return False
    return True


def contenders(run: RandomRun, batch: int, device: torch.device) -> Iterator[tuple[str, Contender]]:
    """Make one contender after the other, so that each is made only if there is time for it."""
    world = World(device=device)
    student = run.student(batch, world, plain=True)
    inputs = step_batch(student)
    yield PLAIN, of_plain(PlainTrainer(student, run.backbones, device), inputs)
    yield OURS, of_student(run, batch, world, Candidate())
    our_unet = PlainTrainer(student, run.backbones, device, our_unet=True)
    yield f"{PLAIN}, our layout and resampling of the U-Net", of_plain(our_unet, inputs)
    for name, candidate in candidates(device.type == "cuda").items():
        place = OtherLayout(device=device) if candidate.other_layout else world
        yield name, of_student(run, batch, place, candidate)
    if device.type == "cuda":
        yield (
            f"{PLAIN}, TF32",
            of_plain(PlainTrainer(student, run.backbones, device), inputs)._replace(tf32=True),
        )


def of_plain(trainer: PlainTrainer, batch: Any) -> Contender:
    def step() -> None:
        trainer.generator_step(batch)
        trainer.discriminator_step(batch)
        trainer.update_average()

    return Contender(step, lambda: trainer.r1_step(batch), r1_alone=True)


def of_student(run: RandomRun, batch: int, world: World, candidate: Candidate) -> Contender:
    choices = {"reuse_fakes": False, **candidate.recipe}
    student = run.student(batch, world, graphs=candidate.cuda_graphs, **choices)
    step, r1 = lambda: ordinary_step(student), lambda: r1_step(student)
    contender = Contender(step, r1, False, candidate.tf32, candidate.fused)
    if student.graphs:  # they are recorded once all has run
        with contender.choices():
            step()
            r1()
    return contender


def take_turn(of: Contender, device: torch.device) -> Times:
    with of.choices():
        start, count = now(device), 0
        while not count or now(device) - start < TURN:
            of.step()
            count += 1
        middle = now(device)
        of.r1()
        end = now(device)
    step = (middle - start) / count
    return Times(step, end - middle if of.r1_alone else max(end - middle - step, 0.0))


@contextmanager
def unless_memory_ends(name: str, device: torch.device) -> Iterator[None]:
    """Say that something does not fit, and go on without it."""
    full = False
    try:
        yield
    except RuntimeError as error:
        if not memory_is_full(error):
            raise
        full = True
    if full:  # what was on the way is gone by now
        release(device)
        say(f"{name}: out of memory")


def measure(
    made: Iterator[tuple[str, Contender]], batch: int, every: int, device: torch.device, seconds: float
) -> tuple[dict[str, list[Times]], dict[str, float]]:
    """Let each contender begin, then all take turns until the time is over; print everything as it comes.

    Returns the times of each, round by round, and the most GiB of the GPU's memory that each took.
    """
    end = time.perf_counter() + seconds
    ready: dict[str, Contender] = {}
    peaks: dict[str, float] = {}
    while len(ready) < 2 or time.perf_counter() < end:
        begin = now(device)
        found = None
        with unless_memory_ends("the weights of one more", device):
            found = next(made, None)
        if found is None:
            break
        name, of = found
        release(device)
        held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        with unless_memory_ends(name, device), of.choices():
            of.step()
            of.r1()
            ready[name] = of
            peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
            peaks[name] = (peak - held) / 2**30  # without what the others hold
            took = now(device) - begin
            say(f"{name}: first steps after {took:.1f} s, {peaks[name]:.1f} GiB beside its weights")
    if PLAIN not in ready:
        sys.exit(f"{PLAIN} does not fit into this memory with --batch {batch}; give fewer images.")
    rounds: dict[str, list[Times]] = {name: [] for name in ready}
    while not rounds[PLAIN] or time.perf_counter() < end:
        order = list(ready) if len(rounds[PLAIN]) % 2 == 0 else [PLAIN, *reversed([*ready][1:])]
        for name in order:
            if len(rounds[PLAIN]) > 1 and time.perf_counter() > end:
                break
            times = take_turn(ready[name], device)
            rounds[name].append(times)
            rate = batch / times.iteration(every)
            say(f"  {name}: {1e3 * times.step:,.1f} ms, R1 {1e3 * times.r1:,.1f} ms, {rate:.3g} images/s")
    return rounds, peaks


def print_table(
    rounds: Mapping[str, list[Times]], peaks: Mapping[str, float], batch: int, every: int
) -> None:
    columns = ("", "step, ms", "R1, ms", "images/s", "GiB", "over the release's order (rounds)")
    say(f"\n| {' | '.join(columns)} |\n|---|{5 * '---:|'}")
    for name, all_times in rounds.items():
        if not all_times:
            continue
        step, r1 = (statistics.median(values) for values in zip(*all_times, strict=True))
        pairs = zip(rounds[PLAIN], all_times, strict=False)
        ratios = [plain.iteration(every) / own.iteration(every) for plain, own in pairs]
        spread = f"x{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rate = batch / Times(step, r1).iteration(every)
        say(f"| {name} | {1e3 * step:,.1f} | {1e3 * r1:,.1f} | {rate:.3g} | {peaks[name]:.1f} | {spread} |")


def check(run: RandomRun, device: torch.device) -> None:
    """Refuse to measure where ours is further from float64 than plain eager's rounding explains."""
    world, exact = World(device=device), Exact(run)
    kinds = [("float32", "float32", False, False), ("bfloat16", "bfloat16", False, False)]
    if device.type == "cuda":
        kinds.append(("tf32", "float32", True, False))
        if kernels_run():
            kinds.append(("bfloat16 with our group norm", "bfloat16", False, True))
    for title, precision, tf32, fused in kinds:
        with fused_group_norms(fused):
            ours, plain = exact.errors(world, precision, tf32=tf32)
        say(f"{title}, relative difference from float64: {PLAIN}, {OURS}")
        for name, error in ours.items():
            say(f"  {name}: {plain[name]:.1e}, {error:.1e}")
        if not explained(ours, plain):
            sys.exit(
                f"Ours lies further from float64 in {title} than rounding explains; nothing is measured."
            )


def say(line: str) -> None:
    print(line, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setting", default="cifar10-uncond")
    parser.add_argument("--method", default="gdd", choices=["gdd", "gdd-i"])
    parser.add_argument("--batch", type=int, default=64, help="images that go through the networks at once")
    parser.add_argument("--seconds", type=float, default=90.0, help="after which nothing new begins")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--unchecked", action="store_true", help="compare nothing; `gdd probe` has done it")
    options = parser.parse_args(arguments)
    device = own_device(options.device)
    begin = time.perf_counter()
    experiments = Experiments(load_config(Path(__file__).parents[1] / "config"))
    recipe = recipe_of(experiments, options.setting, options.method)
    arch = experiments.config.teachers[recipe.teacher].architecture
    with tempfile.TemporaryDirectory() as folder:
        run = random_run(Path(folder), recipe, arch)
        if not options.unchecked:
            check(run, device)
        left, every = options.seconds - (time.perf_counter() - begin), recipe.r1.every
        made = contenders(run, options.batch, device)
        rounds, peaks = measure(made, options.batch, every, device, left)
        print_table(rounds, peaks, options.batch, every)


if __name__ == "__main__":
    main()
