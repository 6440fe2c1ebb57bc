"""How fast a student trains, beside the released order of operations in plain eager PyTorch.

    python benchmarks/iteration.py --setting cifar10-uncond --method gdd --batch 4 --seconds 300

Ours is a student as `gdd distill` trains it, the other is plain_iteration.py; both have the same random
weights. First the losses and gradients of both are compared with those in float64 on the CPU, for two images:
where ours are further away than the rounding of plain eager explains, nothing is measured. Then both take
turns, so that what else the machine does affects them alike; what counts is the ratio within a round. The R1
step is timed by itself and counts for a sixteenth, as it is due every 16 iterations.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import timm
import torch
from plain_iteration import Batch, PlainTrainer, as_published, unfolded
from torch import Tensor, nn

from gdd.adversary.backbones import PUBLISHED, Backbone
from gdd.config.architecture import Architecture
from gdd.config.config import load_config
from gdd.config.recipe import Recipe
from gdd.data.image_array import ImageArray, write
from gdd.distill.distill import Inputs, prepare
from gdd.distill.student import Student
from gdd.experiments import Experiments
from gdd.networks.checkpoint import save_network
from gdd.networks.classifier import SmallClassifier, save_classifier
from gdd.networks.preconditioning import Denoiser
from gdd.training.world import Execution, World, own_device

PLAIN, OURS = "plain eager", "ours"
TURN = 1.0  # seconds that a turn of steps lasts at least


class RandomRun(NamedTuple):
    """A recipe, the files it starts from, all of them random, and its backbones before anything is folded."""

    recipe: Recipe
    inputs: Inputs
    data: ImageArray
    backbones: Mapping[str, Backbone]

    def student(self, batch: int, device: torch.device, **choices: Any) -> Student:
        """Return a student before its first step, all `batch` images of which go through at once."""
        heads = self.recipe.heads.model_copy(update={"norm_group": min(64, batch), "projections": 1})
        same = {"backbone_statistics": "published", "heads": heads}  # as in the plain iteration
        recipe = self.recipe.model_copy(update={"batch": batch, **same, **choices})
        execution = Execution(images_at_once=batch)
        state = self.inputs.data.parent / "state"
        world = World(device=device)
        return prepare(recipe, 0, self.inputs, self.data, state, world=world, execution=execution)


def random_run(folder: Path, recipe: Recipe, arch: Architecture) -> RandomRun:
    """Write random inputs; backbones that nobody publishes become small classifiers."""
    torch.manual_seed(0)
    teacher = Denoiser(arch)
    with torch.no_grad():  # fresh layers that end a branch are almost 0, and would hide the rest
        for parameter in teacher.parameters():
            if parameter.ndim > 1:
                parameter.normal_().mul_(parameter[0].numel() ** -0.5)
    save_network(folder / "teacher.safetensors", teacher)
    backbones = {}
    for name in recipe.backbones:
        if name in PUBLISHED:
            published = PUBLISHED[name]
            net = timm.create_model(published.timm, features_only=True, out_indices=published.taps)
            state = random_state(getattr(net, "model", net))  # timm wraps a transformer
            # The publisher's file has the layers of a VGG under `features`.
            state = {key.replace("features_", "features."): value for key, value in state.items()}
            torch.save(state, folder / name)
            backbones[name] = as_published(name, state)
        else:
            small = SmallClassifier("plain", 32, arch.img_channels, 10, arch.img_resolution)
            small.load_state_dict(random_state(small))
            save_classifier(folder / name, small)
            backbones[name] = unfolded(small)
    shape = (64, arch.img_resolution, arch.img_resolution, arch.img_channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = write(folder / "data", images, np.arange(64) % max(arch.label_dim, 1), {"name": "noise"})
    files = {name: folder / name for name in backbones}
    return RandomRun(recipe, Inputs(folder / "teacher.safetensors", folder / "data", files), data, backbones)


def random_state(net: nn.Module) -> dict[str, Tensor]:
    """Return weights that keep a signal's size through ReLUs, and batch norms that are no identities."""
    state = {}
    for key, like in net.state_dict().items():
        values = torch.randn(like.shape)
        if key.endswith("num_batches_tracked"):
            values = torch.tensor(0)
        elif key.endswith("running_var"):
            values = values.abs() + 0.5
        elif like.ndim == 1:
            values = 0.1 * values + float(key.endswith("weight"))
        else:
            values *= math.sqrt(2 / math.prod(like.shape[1:]))
        state[key] = values
    return state


# --- the same losses and gradients ------------------------------------------------------------------------


def errors(run: RandomRun, device: torch.device) -> dict[str, dict[str, float]]:
    """Return how far losses and gradients lie from those in float64, by contender: relative differences."""
    student = run.student(2, device)
    batch = first_batch(student)
    plain = PlainTrainer(student, run.backbones, device)
    exact = PlainTrainer(student, run.backbones, "cpu", torch.float64)
    with patch.object(Tensor, "float", Tensor.double):  # which the generator calls
        expected = plain_results(exact, batch.to("cpu", torch.float64))
    found = {PLAIN: plain_results(plain, batch), OURS: student_results(student)}
    return {
        contender: {
            name: float((value - expected[name]).norm() / expected[name].norm())
            for name, value in results.items()
        }
        for contender, results in found.items()
    }


def first_batch(student: Student) -> Batch:
    """Return the images, labels and noise of a student's first step."""
    (part,) = student.shares.parts(0, student.images_at_once)
    noises = [
        student.shares.noise(f"{player} noise", part, student.generator.latent_shape)
        for player in ("generator", "discriminator")
    ]
    return Batch(part.images, part.class_labels, *noises)


def plain_results(trainer: PlainTrainer, batch: Batch) -> dict[str, Tensor]:
    keep_weights(trainer.optimizer, trainer.discriminator_optimizer)
    results = {"generator's loss": torch.tensor(trainer.generator_step(batch), dtype=torch.float64)}
    results["generator's gradient"] = gradient(trainer.optimizer)
    loss = trainer.discriminator_step(batch)
    results["discriminator's loss"] = torch.tensor(loss, dtype=torch.float64)
    results["discriminator's gradient"] = gradient(trainer.discriminator_optimizer)
    trainer.r1_step(batch)
    return {**results, "R1's gradient": gradient(trainer.discriminator_optimizer)}


def student_results(student: Student) -> dict[str, Tensor]:
    assert student.discriminator_optimizer
    keep_weights(student.optimizer, student.discriminator_optimizer)
    parts = student.shares.parts(0, student.images_at_once)
    scalars: defaultdict[str, Any] = defaultdict(float)
    student.generator_step(parts, scalars)
    results = {"generator's gradient": gradient(student.optimizer)}
    student.discriminator_step(parts, [], scalars)
    results["discriminator's gradient"] = gradient(student.discriminator_optimizer)
    student.r1_step(parts)
    for player in ("generator", "discriminator"):
        results[f"{player}'s loss"] = scalars[f"loss_{player}"].cpu()
    return {**results, "R1's gradient": gradient(student.discriminator_optimizer)}


def keep_weights(*optimizers: torch.optim.Optimizer) -> None:
    """Let steps change nothing, so that what follows one starts from equal weights."""
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = 0.0


def gradient(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the gradient of the last step as one vector in float64."""
    gradients = [parameter.grad for parameter in optimizer.param_groups[0]["params"]]
    return torch.cat([part.flatten().double().cpu() for part in gradients if part is not None])


# --- their time -------------------------------------------------------------------------------------------

Steps = tuple[Callable[[], object], Callable[[], object]]  # one without R1, and that of R1
Times = tuple[float, float]  # seconds of the two


def plain_steps(trainer: PlainTrainer, batch: Batch) -> Steps:
    def step() -> None:
        trainer.generator_step(batch)
        trainer.discriminator_step(batch)
        trainer.update_average()

    return step, lambda: trainer.r1_step(batch)


def student_steps(student: Student) -> Steps:
    recipe, parts = student.recipe, student.shares.parts(0, student.images_at_once)

    def step() -> None:
        if student.images // recipe.batch % recipe.r1.every == 0:
            student.images += recipe.batch  # skips the iteration in which R1 is due
        student.step()

    return step, lambda: student.r1_step(parts)


def take_turn(steps: Steps, device: torch.device) -> Times:
    step, r1 = steps
    start, count = now(device), 0
    while not count or now(device) - start < TURN:
        step()
        count += 1
    middle = now(device)
    r1()
    return (middle - start) / count, now(device) - middle


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def iteration(times: Times) -> float:
    return times[0] + times[1] / 16


def measure(contenders: Mapping[str, Steps], device: torch.device, seconds: float) -> list[dict[str, Times]]:
    """Let all take turns until the time is over; print each round as it ends."""
    rounds: list[dict[str, Times]] = []
    start = time.perf_counter()
    for name, steps in contenders.items():
        begin = now(device)
        for step in steps:
            step()
        print(f"{name}, first steps: {now(device) - begin:.1f} s", flush=True)
    while not rounds or time.perf_counter() - start < seconds:
        order = list(contenders) if len(rounds) % 2 == 0 else list(reversed(contenders))
        times = {name: take_turn(contenders[name], device) for name in order}
        rounds.append(times)
        ratios = (f"{name} x{iteration(times[PLAIN]) / iteration(times[name]):.2f}" for name in contenders)
        print(f"round {len(rounds)}:", ", ".join(ratios), flush=True)
    return rounds


def print_table(rounds: list[dict[str, Times]], batch: int) -> None:
    print("\n| | step, ms | R1, ms | images/s | over plain eager (rounds) |\n|---|---:|---:|---:|---:|")
    for name in rounds[0]:
        step, r1 = (statistics.median(times[name][kind] for times in rounds) for kind in (0, 1))
        ratios = [iteration(times[PLAIN]) / iteration(times[name]) for times in rounds]
        spread = f"x{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rate = batch / iteration((step, r1))
        print(f"| {name} | {1e3 * step:,.1f} | {1e3 * r1:,.1f} | {rate:.3g} | {spread} |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setting", default="cifar10-uncond")
    parser.add_argument("--method", default="gdd", choices=["gdd", "gdd-i"])
    parser.add_argument("--batch", type=int, default=64, help="images that go through the networks at once")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which no further round begins")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--reuse-fakes", action="store_true", help="measure the recipe's `reuse_fakes` too")
    parser.add_argument("--tf32", action="store_true", help="measure with factors that a GPU rounds")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    precision = "bfloat16" if device.type == "cuda" else "float32"  # of the generator; as released on a GPU
    experiments = Experiments(load_config(Path(__file__).parents[1] / "config"))
    changes = {"heads": {"class_embedding": "random"}, "precision": precision, "reuse_fakes": False}
    recipe = experiments.recipe(options.setting, options.method, changes, "benchmark")
    arch = experiments.config.teachers[recipe.teacher].architecture
    with tempfile.TemporaryDirectory() as folder:
        run = random_run(Path(folder), recipe, arch)
        apart = errors(run, device)
        print(f"{precision}, relative difference from float64: {PLAIN}, {OURS}")
        for name, error in apart[PLAIN].items():
            print(f"  {name}: {error:.1e}, {apart[OURS][name]:.1e}", flush=True)
            if not apart[OURS][name] <= 3 * error + 1e-5:
                raise SystemExit(f"The two orders disagree in the {name}; nothing is measured.")
        own_device(options.device, tf32=options.tf32)
        student = run.student(options.batch, device)
        plain = PlainTrainer(student, run.backbones, device)
        contenders = {PLAIN: plain_steps(plain, first_batch(student)), OURS: student_steps(student)}
        if options.reuse_fakes:
            student = run.student(options.batch, device, reuse_fakes=True)
            contenders["ours, reuse_fakes"] = student_steps(student)
        print_table(measure(contenders, device, options.seconds), options.batch)


if __name__ == "__main__":
    main()
