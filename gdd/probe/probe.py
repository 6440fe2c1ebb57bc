"""`gdd probe`: prints what a machine does with a setting, line by line, and keeps it for `gdd plan`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from gdd.adversary.backbones import PUBLISHED
from gdd.config.config import Config
from gdd.config.local import CPU
from gdd.config.probed import Probe, ProbedSetting, Products, probe_file, read_probe
from gdd.config.recipe import Recipe
from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.files import write_json
from gdd.probe import machine
from gdd.probe.errors import IMAGES, Exact, explained
from gdd.probe.random_run import RandomRun, random_run, recipe_of
from gdd.probe.rates import OtherLayout, Speed, images_per_second, random_extractor, random_source, speed
from gdd.provenance import environment
from gdd.training.layout import most_processes
from gdd.training.world import World

METHOD = "gdd"  # which trains all of the generator: GDD-I is no slower
TURN = 3.0  # seconds that a rate is measured over
FASTER = 1.03  # times as fast is worth a choice
FULL = 0.92  # of a GPU's memory, as `gdd.distill.at_once`

Say = Callable[[str], None]


def probe(
    experiments: Experiments, setting: str, device: torch.device, say: Say, seconds: float
) -> Path | None:
    """Measure a setting on a device, say each thing as it is known, and write `results/probe/<card>.json`.

    Nothing is downloaded: all weights are random. Steps are timed for so many `seconds`, but one at least.
    On a CPU, published feature networks, which see 224x224 pixels, take too long: one image is compared in
    float32, and nothing is kept.

    Raises:
        UserError: not even one image fits into the device's memory.
    """
    begin, gpu = time.monotonic(), device.type == "cuda"
    provenance = {**environment(device), **_versions(gpu)}
    card = machine.slug(str(provenance["device"])) if gpu else CPU
    old = read_probe(card)
    _say_machine(provenance, gpu, say)
    recipe = recipe_of(experiments, setting, METHOD)
    short = not gpu and any(name in PUBLISHED for name in recipe.backbones)
    if not gpu and not short:
        torch.set_num_threads(1)  # a rate without a GPU is one of a core
    say(f"{setting}, {METHOD}: networks of its size with random weights; some minutes.\n")
    with tempfile.TemporaryDirectory() as name:
        folder, arch = Path(name), experiments.config.teachers[recipe.teacher].architecture
        run = random_run(folder, recipe, arch)
        errors = _say_errors(run, World(device=device), say, short=short)
        if short:
            names, took = ", ".join(recipe.backbones), time.monotonic() - begin
            say(
                f"\nLeft out on a CPU, which is slow with {names}: a second image, bfloat16 and all rates; "
                f"{probe_file(card)} stays as it is ({took:.0f} s)."
            )
            return None
        speeds = list(_say_speeds(run, device, seconds, TURN, say))
        if not speeds:
            raise UserError(f"A step of {setting} fits into this device's memory with no number of images.")
        source = random_source(folder, run, device)
        extractor, what = random_extractor(folder, experiments.config, setting, device)
        generating, evaluating = images_per_second(source, extractor, device, TURN)
    say(f"\ngenerating  {generating:10,.0f} images/s, {source.batch} at once in float32")
    say(f"evaluating  {evaluating:10,.0f} images/s, by {what}")
    graphs = _graphs_pay(speeds)
    measured = ProbedSetting(
        provenance=provenance,
        training=_rates(speeds, graphs),
        generating=generating,
        evaluating=evaluating,
        cuda_graphs=graphs,
        speeds=tuple({**of._asdict(), "images_per_second": of.images_per_second} for of in speeds),
        errors=errors,
    )
    gb = machine.card_gb(device) if gpu else 0
    settings = {**(old.settings if old else {}), setting: measured}
    write_json(probe_file(card), Probe(card=card, gb=gb, settings=settings).model_dump(mode="json"))
    _say_advice(experiments.config, setting, recipe, card, measured, say)
    took = time.monotonic() - begin
    say(f"{probe_file(card)}: `gdd plan` and the time limits of jobs go by it ({took:.0f} s).")
    return probe_file(card)


def _versions(gpu: bool) -> dict[str, Any]:
    if not gpu:
        return {}
    return {"driver": machine.driver(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def _say_machine(provenance: dict[str, Any], gpu: bool, say: Say) -> None:
    versions = (
        f"{name} {provenance[name]}"
        for name in ("gdd", "python", "torch", "cuda", "cudnn", "driver")
        if name in provenance
    )
    say(", ".join(versions))
    for line in machine.cards():
        say(line)
    if not gpu:
        say("There is no GPU here that torch sees; rates are those of one core of the CPU.")
    else:
        if len(machine.cards()) > 1:
            say(f"between them: {machine.interconnect()}")
        say(f"computing on {provenance['device']}")


def _say_errors(run: RandomRun, world: World, say: Say, *, short: bool) -> dict[str, Any]:
    begin, images = time.monotonic(), 1 if short else IMAGES
    say(f"Correct? Relative differences from float64 on the CPU, images: {images}; ours, and plain eager's.")
    exact, found = Exact(run, images), {}
    say(f"  float64   took {time.monotonic() - begin:.0f} s")
    kinds = [("float32", "float32", False), ("bfloat16", "bfloat16", False)]
    if world.device.type == "cuda":
        kinds.insert(1, ("tf32", "float32", True))
    for name, precision, tf32 in kinds[:1] if short else kinds:
        ours, plain = exact.errors(world, precision, tf32=tf32)
        for what, error in ours.items():
            say(f"  {name:9} {what:26} {error:8.1e} {plain[what]:8.1e}")
        if explained(ours, plain):
            say(f"  {name:9} as near as its rounding allows")
        else:
            say(f"  {name:9} FURTHER AWAY THAN ROUNDING EXPLAINS; do not train here before you know why")
        found[name] = {"ours": ours, "plain eager": plain, "explained": explained(ours, plain)}
    return found


def _say_speeds(
    run: RandomRun, device: torch.device, seconds: float, turn: float, say: Say
) -> Iterator[Speed]:
    """Time steps with a group of images at once, twice as many, and so on; fewer, where that does not fit."""
    gpu, end, measured = device.type == "cuda", time.monotonic() + seconds, 0
    world, other = World(device=device), OtherLayout(device=device)
    say(
        "\nimages at once  products  memory format             start      step        R1  images/s   peak GiB"
    )
    if gpu:
        torch.cuda.set_per_process_memory_fraction(FULL, device)

    def timed(count: int, world: World, *, tf32: bool, graphs: bool = False) -> Speed | None:
        nonlocal measured
        layout = str(world.memory_format).removeprefix("torch.") + graphs * ", graphs"
        lead = f"{count:14}  {'tf32' if tf32 else 'float32':8}  {layout:23}"
        if measured and time.monotonic() > end:
            say(f"{lead}  not measured: the time is over")
            return None
        found = speed(run, world, count, tf32=tf32, seconds=turn, graphs=graphs)
        if found is None:
            say(f"{lead}  out of memory")
            return None
        measured += 1
        if graphs and not found.cuda_graphs:
            say(f"{lead}  could not be recorded")
            return None
        say(
            f"{lead} {found.start_seconds:6.1f} s {found.step:6,.0f} ms {found.r1:6,.0f} ms"
            f" {found.images_per_second:9,.1f} {found.peak_gib:10.1f}"
        )
        return found

    count, smaller, fitting = run.recipe.heads.norm_group, False, []
    while 1 <= count <= run.recipe.batch:
        found = timed(count, world, tf32=False)
        if found is None:
            if count > run.recipe.heads.norm_group:
                break
            count, smaller = count // 2, True
            continue
        yield found
        fitting.append(count)
        if gpu and (faster := timed(count, world, tf32=True)):
            yield faster
        if count <= run.recipe.heads.norm_group and (turned := timed(count, other, tf32=False)):
            yield turned
        if smaller:
            break
        count *= 2
    # As many as fit, which is what a run takes; and the fewest, where launching kernels counts for most.
    for count in dict.fromkeys([fitting[-1], fitting[0]] if gpu and fitting else []):
        for tf32 in (False, True):
            if graphed := timed(count, world, tf32=tf32, graphs=True):
                yield graphed
    if gpu:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _graphs_pay(speeds: list[Speed]) -> tuple[Products, ...]:
    """Return the products with which CUDA graphs make a step faster, at as many images as fit."""
    usual = [of for of in speeds if of.memory_format == speeds[0].memory_format]
    rates = {(of.products, of.images_at_once, of.cuda_graphs): of.images_per_second for of in usual}
    ordinary = {of.products: of.images_at_once for of in usual if not of.cuda_graphs}  # the most come last
    return tuple(
        products
        for products, most in ordinary.items()
        if rates.get((products, most, True), 0.0) > FASTER * rates[products, most, False]
    )


def _rates(speeds: list[Speed], graphs: Collection[Products]) -> dict[Any, dict[str, float]]:
    """Return images a second as a run has them here, by products and images at once."""
    usual = speeds[0].memory_format
    rates: dict[Any, dict[str, float]] = {}
    for of in speeds:
        if of.memory_format == usual and (of.products in graphs or not of.cuda_graphs):
            rates.setdefault(of.products, {})[str(of.images_at_once)] = of.images_per_second
    return rates


def _say_advice(config: Config, setting: str, recipe: Recipe, card: str, of: ProbedSetting, say: Say) -> None:
    rate, rounded = of.training_rate(None, tf32=False), of.training_rate(None, tf32=True)
    samples = config.settings[setting].evaluation.samples
    assert rate
    hours = f"{recipe.images / rate / 3600:,.3g}" + (
        f" ({recipe.images / rounded / 3600:,.3g} with tf32)" if rounded else ""
    )
    kind = "core" if card == CPU else "GPU"
    say(f"\n{recipe.images:,} images take {hours} hours of one {kind}.")
    seconds = samples * (1 / of.generating + 1 / of.evaluating)
    say(f"{samples:,} images of a snapshot generated and evaluated by FID: {seconds / 60:,.2g} minutes.")
    if card == CPU:
        return
    group, fits = recipe.heads.norm_group, of.at_once(tf32=False)
    if fits < group:
        say(f"A group of {group} images does not fit; {group // fits} GPUs or more have to share it.")
    if of.cuda_graphs:
        say(
            f"CUDA graphs are faster with {' and '.join(of.cuda_graphs)}; runs take them there if left to it."
        )
    say("Lines for config/local.yaml:")
    say(f"  card: {card}")
    say(f"  gpus: {most_processes(recipe, max(torch.cuda.device_count(), len(machine.cards())))}")
    if rounded:
        say(f"  # tf32: true  # {rounded / rate:.1f} times as fast; rounds factors of products to 10 bits")
