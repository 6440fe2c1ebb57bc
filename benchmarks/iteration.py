"""How long a training iteration takes at the papers' shapes, stage by stage, and how much memory it needs.

    python benchmarks/iteration.py --setting cifar10-uncond --batch 8 --rounds 5 --out iteration.json

`plain eager` is the released order of operations (plain_iteration.py), the others are this project's parts as
its students are trained. All have the same weights, which are random, and take turns, so that what else the
machine does hits them alike; what counts is the ratio within a round. With `--threads 1` on a CPU the time is
the processor's. R1 counts for a sixteenth, as it is due every 16 iterations. The losses of plain eager and
GDD are compared first; where they differ by more than TOLERANCE nothing is measured.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from own_iteration import OwnTrainer
from plain_iteration import PlainTrainer
from random_backbones import random_backbone
from stages import Batch, Stopwatch, peak_memory
from torch import Tensor, nn
from torch.nn import functional

from gdd.adversary.discriminator import build_discriminator
from gdd.config.config import load_config
from gdd.distill.freeze import freeze
from gdd.networks.preconditioning import OneStepGenerator

Trainer = PlainTrainer | OwnTrainer
PLAIN, OWN, FROZEN = "plain eager, GDD", "GDD", "GDD-I"
# Between plain and own order: relative difference of the first loss and of the second, and 1 - cosine of the
# generator's gradients. The second loss comes after a step of Adam, whose first one goes by the signs of
# gradients, also of those that are almost 0; R1, after two, has ten times the second's.
TOLERANCE = {"float32": (1e-4, 1e-3, 1e-3), "bfloat16": (1e-2, 3e-2, 1e-2)}


def make_trainers(
    options: argparse.Namespace, device: torch.device
) -> tuple[dict[str, Callable[[], Trainer]], Batch]:
    """Return makers of the contenders, all with the same weights, and the batch they train on."""
    config = load_config(Path(__file__).parents[1] / "config")
    setting = config.settings[options.setting]
    arch = config.teachers[setting.teacher].architecture
    recipe = setting.recipe
    torch.manual_seed(0)
    dtype = torch.bfloat16 if options.precision == "bfloat16" else torch.float32
    generator = OneStepGenerator(arch, dtype).to(device)
    with torch.no_grad():  # fresh layers that end a branch are almost 0, and would hide the rest
        for parameter in generator.parameters():
            if parameter.ndim > 1:
                parameter.normal_().mul_(parameter[0].numel() ** -0.5)
    pairs = {name: random_backbone(name) for name in recipe.backbones}
    discriminator = build_discriminator(
        {name: own for name, (own, _) in pairs.items()},
        head="downsampling",
        projection_channels=recipe.heads.projection_channels,
        head_channels=recipe.heads.channels,
        group=options.batch,
        seed=0,
        label_dim=arch.label_dim,
    ).to(device)
    frozen = copy.deepcopy(generator)
    freeze(frozen, "conv")
    shape = (options.batch, arch.img_channels, arch.img_resolution, arch.img_resolution)
    labels = None
    if arch.label_dim:
        indices = torch.randint(arch.label_dim, (options.batch,), device=device)
        labels = functional.one_hot(indices, arch.label_dim).float()
    noises = torch.randn(2, *shape, device=device)
    batch = Batch(torch.rand(shape, device=device) * 2 - 1, labels, noises[0], noises[1])
    last = options.channels_last

    def own(of: OneStepGenerator, **choices: bool) -> Callable[[], Trainer]:
        return lambda: OwnTrainer(recipe, of, discriminator, channels_last=last, **choices)

    def plain() -> Trainer:
        backbones = {name: twin.to(device) for name, (_, twin) in pairs.items()}
        return PlainTrainer(recipe, generator, backbones, discriminator)

    makers: dict[str, Callable[[], Trainer]] = {
        PLAIN: plain,
        OWN: own(generator),
        "GDD, reused fakes": own(generator, reuse_fakes=True),
        FROZEN: own(frozen),
        "GDD-I, reused fakes": own(frozen, reuse_fakes=True),
    }
    if device.type == "cuda":
        makers["GDD, TF32"] = own(generator, tf32=True)
    if device.type == "cuda" or options.low:
        makers["GDD, bfloat16 backbones"] = own(generator, low=True)
    if device.type == "cuda":
        makers["GDD-I, bfloat16 backbones, TF32, reused fakes"] = own(
            frozen, low=True, tf32=True, reuse_fakes=True
        )
    return makers, batch


def agreement(plain: Trainer, own: Trainer, batch: Batch, precision: str) -> dict[str, float]:
    """Compare an iteration's losses and gradients from equal weights; leave if they differ too much."""
    clock = Stopwatch(batch.reals.device)
    expected, found = ({**trainer.iteration(batch, clock), **trainer.r1(batch)} for trainer in (plain, own))
    apart = {name: abs(found[name] / value - 1) for name, value in expected.items()}
    # With beta1 = 0 Adam's first moment is the last gradient.
    for name, value in expected.items():
        print(f"{name}: {value:.7g} in plain, {found[name]:.7g} in own order", file=sys.stderr)
    apart["1 - cosine of the generator's gradients"] = 1 - cosine(moments(plain), moments(own))
    first, later, direction = TOLERANCE[precision]
    limits = {"generator": first, "discriminator": later, "R1": 10 * later}
    for name, value in apart.items():
        if not value <= limits.get(name, direction):
            sys.exit(f"The two orders disagree: {name} by {value:.2g} (expected {expected}, found {found}).")
    return apart


def moments(trainer: Trainer) -> list[Tensor]:
    return [trainer.optimizer.state[parameter]["exp_avg"] for parameter in trainer.trainable]


def cosine(first: list[Tensor], second: list[Tensor]) -> float:
    """Return the cosine of the angle between two gradients in all their parts."""
    a, b = (torch.cat([part.flatten().double() for part in parts]) for parts in (first, second))
    return float(a @ b / (a.norm() * b.norm()))


def precision_effects(makers: dict[str, Callable[[], Trainer]], batch: Batch) -> dict[str, dict[str, float]]:
    """Return how far lower precision moves logits and the generator's gradient."""

    def look(name: str) -> tuple[Tensor, list[Tensor]]:
        trainer = makers[name]()
        assert isinstance(trainer, OwnTrainer)
        trainer.allow_tf32()
        trainer.discriminator.requires_grad_(False)
        fakes = trainer.generator(batch.noise, batch.labels)
        logits = torch.cat(trainer.discriminator.logits(trainer.features(fakes), batch.labels), dim=1)
        gradients = torch.autograd.grad(functional.softplus(-logits).mean(), trainer.trainable)
        return logits.detach(), list(gradients)

    low = [name for name in ("GDD, TF32", "GDD, bfloat16 backbones") if name in makers]
    if not low:
        return {}
    exact, direction = look(OWN)
    effects = {}
    for name in low:
        logits, gradients = look(name)
        effects[name] = {
            "logits, rms difference over their spread": float((logits - exact).std() / exact.std()),
            "cosine of the generator's gradients": cosine(gradients, direction),
        }
    return effects


def held_memory(trainer: Trainer) -> int:
    """Return the bytes of weights, gradients and Adam's moments."""
    networks: list[nn.Module] = [trainer.generator, trainer.average, trainer.discriminator]
    tensors = [tensor for net in networks for tensor in (*net.parameters(), *net.buffers())]
    tensors += [tensor.grad for tensor in tensors if tensor.grad is not None]
    for optimizer in (trainer.optimizer, trainer.discriminator_optimizer):
        tensors += [value for state in optimizer.state.values() for value in state.values()]
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def measure(
    trainers: dict[str, Trainer], batch: Batch, rounds: int, new_clock: Callable[[], Stopwatch]
) -> list[dict[str, dict[str, float]]]:
    """Return the seconds of every stage, by round and contender."""
    results = []
    for number in range(-1, rounds):  # the first iterations are slower by up to a tenth, and do not count
        names = list(trainers) if number % 2 == 0 else list(reversed(trainers))
        found = {}
        for name in names:
            clock = new_clock()
            with clock("iteration"):
                trainers[name].iteration(batch, clock)
            with clock("R1, whole"):
                trainers[name].r1(batch)
            clock.seconds["R1 / 16"] = clock.seconds.pop("R1, whole") / 16
            clock.seconds["iteration"] += clock.seconds["R1 / 16"]
            found[name] = clock.seconds
        if number < 0:
            continue
        results.append(found)
        ratios = (f"{name} x{found[PLAIN]['iteration'] / found[name]['iteration']:.2f}" for name in trainers)
        print(f"round {number + 1} of {rounds}:", ", ".join(ratios), file=sys.stderr, flush=True)
    return results


def median_ratio(
    rounds: list[dict[str, dict[str, float]]], over: str, under: str, stages: list[str]
) -> float:
    """Return the median over rounds of one contender's time over another's, in some stages."""
    return statistics.median(
        sum(found[over].get(stage, 0.0) for stage in stages)
        / sum(found[under].get(stage, 0.0) for stage in stages)
        for found in rounds
    )


def print_tables(results: dict[str, Any], rounds: list[dict[str, dict[str, float]]]) -> None:
    """Print milliseconds a stage, and what follows from them."""
    names = list(results["summary"])
    stages = list(dict.fromkeys(stage for name in names for stage in rounds[0][name]))
    stages.append(stages.pop(stages.index("iteration")))
    print("| ms (median) | " + " | ".join(names) + " |\n|---" + "|---" * len(names) + "|")
    for stage in stages:
        cells = [
            f"{1e3 * statistics.median(found[name][stage] for found in rounds):,.1f}"
            if stage in rounds[0][name]
            else ""
            for name in names
        ]
        print(f"| {stage} | " + " | ".join(cells) + " |")
    for key, form in (
        ("images_per_second", "{:.3g}"),
        ("faster_than_plain_by", "x{:.2f}"),
        ("peak_gib", "{:.2f}"),
    ):
        values = [results["summary"][name].get(key) for name in names]
        cells = ["" if value is None else form.format(value) for value in values]
        print(f"| {key.replace('_', ' ')} | " + " | ".join(cells) + " |")
    print()
    for key in ("agreement", "gdd_i_over_gdd", "precision"):
        print(f"{key}: {json.dumps(results[key])}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setting", default="cifar10-uncond", help="A setting with published heads.")
    parser.add_argument("--batch", type=int, default=8, help="Images through the networks at once.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="Of a CPU; PyTorch's choice if not given.")
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], help="Of the generator; bfloat16 on a GPU."
    )
    parser.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="As runs choose for the papers' networks.",
    )
    parser.add_argument("--low", action="store_true", help="Measure bfloat16 backbones on a CPU too.")
    parser.add_argument("--only", nargs="+", help="These contenders beside plain eager and GDD.")
    parser.add_argument("--out", type=Path, help="A JSON file.")
    options = parser.parse_args()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.threads:
        torch.set_num_threads(options.threads)
    on_gpu = device.type == "cuda"
    options.precision = options.precision or ("bfloat16" if on_gpu else "float32")
    makers, batch = make_trainers(options, device)
    if options.only is not None:
        makers = {name: make for name, make in makers.items() if name in (PLAIN, OWN, *options.only)}
    precision = precision_effects(makers, batch)
    trainers = {name: make() for name, make in makers.items()}
    apart = agreement(trainers[PLAIN], trainers[OWN], batch, options.precision)
    processor_time = not on_gpu and torch.get_num_threads() == 1
    peaks = {}
    for name, trainer in trainers.items():  # which warms the others up as well
        if name not in (PLAIN, OWN):
            trainer.iteration(batch, Stopwatch(device))
        held = held_memory(trainer)
        peak = peak_memory(lambda trainer=trainer: trainer.iteration(batch, Stopwatch(device)), device)  # type: ignore[misc]
        peaks[name] = held + peak
    rounds = measure(trainers, batch, options.rounds, lambda: Stopwatch(device, processor_time))
    summary = {
        name: {
            "images_per_second": options.batch
            / statistics.median(found[name]["iteration"] for found in rounds),
            "faster_than_plain_by": median_ratio(rounds, PLAIN, name, ["iteration"]),
            "peak_gib": peaks[name] / 2**30,
        }
        for name in trainers
    }
    unet = ["generator forward", "generator backward"]
    frozen = (
        {
            "U-Net, forward and backward": median_ratio(rounds, OWN, FROZEN, unet),
            "iteration": median_ratio(rounds, OWN, FROZEN, ["iteration"]),
            "peak memory": peaks[OWN] / peaks[FROZEN],
        }
        if FROZEN in trainers
        else None
    )
    results = {
        "device": torch.cuda.get_device_name(device) if on_gpu else "CPU",
        "torch": torch.__version__,
        "clock": "processor" if processor_time else "wall",
        **{key: getattr(options, key) for key in ("setting", "batch", "precision", "channels_last")},
        "threads": torch.get_num_threads(),
        "agreement": apart,
        "gdd_i_over_gdd": frozen,
        "precision": precision,
        "summary": summary,
    }
    print_tables(results, rounds)
    if options.out:
        options.out.write_text(json.dumps({**results, "rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
