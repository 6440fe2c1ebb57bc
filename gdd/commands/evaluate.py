"""Commands that evaluate generators, or only make their images."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gdd import paths
from gdd.commands.networks import external_place
from gdd.commands.options import DEVICE, EXPECT, FILE, TRUST, Here, pass_here, say
from gdd.config.metrics import PIXELS, by_extractor, metric_help
from gdd.config.names import EXTRACTORS
from gdd.config.recipe import Sampler
from gdd.errors import UserError, did_you_mean
from gdd.stages.inputs import network_input, stated_sha256
from gdd.stages.stage import Stage

if TYPE_CHECKING:
    import torch

    from gdd.metrics.reference import Comparisons
    from gdd.metrics.sources import Source
    from gdd.training.world import World


def source_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how the images of a file are made (see `_source`)."""
    for option in (
        click.option("--steps", type=click.IntRange(1), help="Number of steps of a teacher's sampler."),
        click.option("--churn", type=float, default=0.0, help="S_churn of a teacher's stochastic sampler."),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the latents."),
        click.option(
            "--batch", type=click.IntRange(1), default=250, show_default=True, help="Images at once."
        ),
    ):
        command = option(command)
    return command


def _source(file: Path, world: World, steps: int | None, churn: float, **options: Any) -> Source:
    from gdd.metrics.sources import open_source

    how = None if steps is None else Sampler(steps=steps, churn=churn)
    return open_source(file, sampler=how, device=world.device, **options)


def _one_a_gpu(here: Here) -> None:
    """Start a process for each claimed GPU and end as they do; return where this is one, or the only one."""
    if "RANK" in os.environ or len(here.gpus) < 2:
        return
    from gdd.training.processes import ONE, launch

    sys.exit(launch([sys.executable, "-m", "gdd", *sys.argv[1:]], len(here.gpus), ONE))


class FileOrStage(click.Group):
    """A group of commands in which any other first word is the file to evaluate."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            args = ["file", *args]
        return super().resolve_command(ctx, args)

    def format_epilog(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Metrics"):
            formatter.write_text(metric_help())


@click.group(cls=FileOrStage)
def evaluate() -> None:
    """Evaluate a run, a teacher, others' work, or any FILE: `gdd evaluate FILE --reference ...`.

    Interrupted, the same command goes on with the first block of images that is not done. With `gdd --gpus N`
    or `torchrun ... -m gdd evaluate ...`, each process sees a part of the images; the numbers are the same.
    """


@evaluate.command()
@click.argument("setting")
@click.argument("run")
@click.option("--seed", type=click.IntRange(0), required=True, help="Seed of the run.")
@DEVICE
@EXPECT
@pass_here
def run(here: Here, setting: str, run: str, seed: int, device: str, expect: str | None) -> None:
    """Evaluate the snapshots of RUN of SETTING, by its folder's name."""
    from gdd.distill.generate import keep_only
    from gdd.files import write_json
    from gdd.metrics.evaluate import evaluate_run
    from gdd.training.world import join

    stage = here.stage("evaluate_run", expect, setting=setting, run=run, seed=seed)
    _one_a_gpu(here)
    folder = stage.path("run")
    with join(device) as world:
        comparisons = open_all(here, setting, stage, world.device)
        metrics = evaluate_run(folder, here.config.settings[setting].evaluation, comparisons, world)
        if not world.main:
            return
        write_json(folder / "metrics.json", metrics)
        if here.experiments.find(setting, run).keep == "reported":
            shown = [metrics["final"], metrics["best"], *metrics.get("also_at", {}).values()]
            keep_only(folder, {snapshot["images"] for snapshot in shown})
        fid = metrics["final"]["mean"].get("fid", math.nan)
        say(f"{folder}: FID {fid:.3f} after {metrics['final']['images']:,} images.")


@evaluate.command()
@click.argument("setting")
@click.argument("teacher")
@click.option("--steps", type=click.IntRange(1), required=True, help="Of the teacher's sampler.")
@DEVICE
@EXPECT
@pass_here
def teacher(here: Here, setting: str, teacher: str, steps: int, device: str, expect: str | None) -> None:
    """Evaluate TEACHER, sampled at some number of steps, as SETTING evaluates its runs."""
    stage = here.stage("evaluate_teacher", expect, setting=setting, teacher=teacher, steps=steps)
    how = here.config.settings[setting].teacher_sampler.model_copy(update={"steps": steps})
    out, samples = (find(teacher, setting, steps) for find in (paths.teacher_metrics, paths.teacher_samples))
    facts = {"sampler": how.model_dump(mode="json")}
    _in_setting(here, setting, stage, device, out, samples, facts, stage.path("teacher"), sampler=how)


@evaluate.command()
@click.argument("setting")
@click.argument("name")
@DEVICE
@EXPECT
@pass_here
def external(here: Here, setting: str, name: str, device: str, expect: str | None) -> None:
    """Evaluate what others published as NAME, as SETTING evaluates its runs."""
    stage = here.stage("evaluate_external", expect, setting=setting, external=name)
    record, folder = here.config.external[name], paths.external_folder(setting, name)
    out, samples = folder / "metrics.json", folder / "samples.npz"
    facts = {"kind": "external", "licence": record.licence}
    place = stage.find("generator") or external_place(here, setting, name)
    _in_setting(here, setting, stage, device, out, samples, facts, place, evaluations=record.evaluations)


def _in_setting(
    here: Here,
    setting: str,
    stage: Stage,
    device: str,
    out: Path,
    samples: Path,
    facts: dict[str, Any],
    place: Path,
    **options: Any,
) -> None:
    """Evaluate the images of `place` as a setting evaluates its runs; the first ones go to `samples`."""
    _one_a_gpu(here)
    from gdd.distill.generate import SAMPLES
    from gdd.files import write_json, write_npz
    from gdd.metrics.evaluate import evaluate_source
    from gdd.metrics.sources import open_source
    from gdd.training.world import join

    evaluation = here.config.settings[setting].evaluation
    with join(device) as world:
        source = open_source(place, device=world.device, **options)
        comparisons = open_all(here, setting, stage, world.device, source.shape)
        metrics = evaluate_source(source, comparisons, out, evaluation.samples, evaluation.blocks, world)
        if world.main:
            first = source.images(0, min(SAMPLES, source.count or SAMPLES))
            write_npz(samples, images=first.cpu().numpy())
            write_json(out, {**metrics, **facts})
            say(f"{out}: FID {metrics['final']['mean']['fid']:.3f}, {metrics['evaluations']} evaluations.")


def open_all(
    here: Here, setting: str, stage: Stage, device: torch.device, shape: tuple[int, int, int] | None = None
) -> Comparisons:
    """Return what a setting's generators are compared with, all of the data set as it is now."""
    from gdd.data.image_array import ImageArray
    from gdd.metrics.reference import open_comparisons

    evaluation, real = here.config.settings[setting].evaluation, ImageArray.open(stage.path("data"))
    return open_comparisons(
        shape or real.shape,
        stage.path("references"),
        by_extractor(evaluation.wanted(), evaluation.extractor),
        weights=stage.paths("extractor"),
        dataset=real.name,
        dataset_sha256=real.sha256,
        device=device,
        trusted=stated_sha256(here.config),
    )


@evaluate.command(hidden=True)
@click.argument("file", type=FILE)
@click.option(
    "--reference",
    type=FILE,
    required=True,
    help="A data set's folder in results/references; or one file of it, or published statistics.",
)
@click.option("--metrics", default="fid", show_default=True, help="Metrics, separated by commas.")
@click.option(
    "--samples", type=click.IntRange(1), default=50_000, show_default=True, help="Images in a block."
)
@click.option(
    "--blocks", type=click.IntRange(1), default=3, show_default=True, help="At most: a file has an end."
)
@click.option(
    "--extractor", default="inception", show_default=True, help="Of FID and all metrics that name none."
)
@click.option("--dataset", help="The data set that is meant, where the generator was made for another.")
@click.option("--out", type=FILE, required=True, help="Receives the metrics (json).")
@source_options
@TRUST
@DEVICE
@pass_here
def file(
    here: Here,
    /,
    file: Path,
    reference: Path,
    metrics: str,
    samples: int,
    blocks: int,
    extractor: str,
    dataset: str | None,
    out: Path,
    trust_sha256: tuple[str, ...],
    device: str,
    **options: Any,
) -> None:
    """Evaluate a generator's or a teacher's weights, or images: an .npz, a folder, a .zip, a .tar."""
    from gdd.files import write_json
    from gdd.metrics.evaluate import evaluate_source
    from gdd.metrics.reference import open_comparisons
    from gdd.training.world import join

    there = [*here.config.features, PIXELS, *EXTRACTORS]
    if extractor not in there:
        known = f"{did_you_mean(extractor, there)}there are: {', '.join(there)}"
        raise UserError(f"There is no extractor '{extractor}'; {known}.")
    wanted = by_extractor(metrics.replace(",", " ").split(), extractor)
    weights = {name: Path(network_input(here.config, name).path) for name in wanted if name != PIXELS}
    with join(device) as world:
        source = _source(file, world, **options)
        meant = dataset or source.dataset
        comparisons = open_comparisons(
            source.shape,
            reference,
            wanted,
            weights=weights,
            dataset=meant,
            device=world.device,
            trusted=[*stated_sha256(here.config), *trust_sha256],
        )
        outcome = evaluate_source(source, comparisons, out, samples, blocks, world)
        if world.main:
            write_json(out, {**outcome, "name": file.name, "images": source.facts})
            values = ", ".join(f"{name} {value:.4g}" for name, value in outcome["final"]["mean"].items())
            number = len(outcome["final"]["blocks"])
            say(f"{out}: {values} (mean of {number} x {samples:,} images).")


@click.command()
@click.argument("file", type=FILE)
@click.option("--num", type=click.IntRange(1), required=True, help="How many images.")
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="Index of the first one.")
@click.option("--class", "only_class", type=int, help="The class of all images; else classes are drawn.")
@click.option("--out", type=FILE, required=True, help="NAME.npz, a grid NAME.png, or a folder of PNGs.")
@source_options
@DEVICE
def sample(file: Path, num: int, start: int, out: Path, device: str, **options: Any) -> None:
    """Make images with the weights of a generator or a teacher in FILE and write them to OUT.

    Image i comes from the seed and i alone: parts made apart fit together, whatever the batches. With
    `torchrun ... -m gdd sample ...`, each process makes a part.
    """
    from gdd.metrics.export import export
    from gdd.training.world import join

    with join(device) as world:
        source = _source(file, world, **options)
        export(source, out, start=start, count=num, world=world)
        if world.main:
            say(f"{out}: {num:,} images of {source.shape} from {file}.")
