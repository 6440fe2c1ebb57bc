"""Commands that evaluate generators, or only make their images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gdd import paths
from gdd.commands.networks import external_place
from gdd.commands.options import CHURN, DEVICE, EXPECT, FILE, STEPS, Here, pass_here, sampler, say
from gdd.config.metrics import PIXELS, by_extractor, metric_help
from gdd.config.names import EXTRACTORS
from gdd.config.records import Evaluation
from gdd.errors import UserError
from gdd.stages.inputs import network_input
from gdd.stages.stage import Stage

if TYPE_CHECKING:
    from gdd.metrics.comparison import Comparisons
    from gdd.metrics.sources import Source
    from gdd.training.world import World

SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the latents.")
BATCH = click.option(
    "--batch", type=click.IntRange(1), default=250, show_default=True, help="Images at once."
)


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

    Interrupted, the same command goes on with the first block of images that is not done. With
    `torchrun ... -m -- gdd evaluate ...`, each process sees a part of the images; the numbers are the same.
    """


@evaluate.command()
@click.argument("setting")
@click.argument("run")
@click.option("--seed", type=click.IntRange(0), required=True, help="Of the run.")
@DEVICE
@EXPECT
@pass_here
def run(here: Here, setting: str, run: str, seed: int, device: str, expect: str | None) -> None:
    """Evaluate the snapshots of RUN of SETTING, by its folder's name."""
    from gdd.distill.snapshots import keep_only
    from gdd.files import write_json
    from gdd.metrics.sources import open_source
    from gdd.metrics.stages import evaluate_run, snapshots
    from gdd.training.world import join

    stage = here.stage("evaluate_run", expect, setting=setting, run=run, seed=seed)
    folder, evaluation = stage.path("run"), here.config.settings[setting].evaluation
    with join(device) as world:
        last = open_source(snapshots(folder)[-1])
        metrics = evaluate_run(folder, evaluation, _comparisons(stage, evaluation, last, world), world=world)
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
    from gdd.metrics.sources import open_source
    from gdd.training.world import join

    stage = here.stage("evaluate_teacher", expect, setting=setting, teacher=teacher, steps=steps)
    how = here.config.settings[setting].teacher_sampler.model_copy(update={"steps": steps})
    facts = {"kind": "teacher", "sampler": how.model_dump(mode="json")}
    metrics = paths.teacher_metrics(teacher, setting, steps)
    samples = paths.teacher_samples(teacher, setting, steps)
    with join(device) as world:
        source = open_source(stage.path("teacher"), sampler=how, device=world.device)
        _in_setting(here, setting, stage, source, world, metrics, samples, facts)


@evaluate.command()
@click.argument("setting")
@click.argument("name")
@DEVICE
@EXPECT
@pass_here
def external(here: Here, setting: str, name: str, device: str, expect: str | None) -> None:
    """Evaluate what others published as NAME, as SETTING evaluates its runs."""
    from gdd.metrics.sources import open_source
    from gdd.training.world import join

    stage = here.stage("evaluate_external", expect, setting=setting, external=name)
    record, folder = here.config.external[name], paths.external_folder(setting, name)
    facts = {"kind": "external", "licence": record.licence}
    place = stage.find("generator") or external_place(here, setting, name)
    with join(device) as world:
        source = open_source(place, device=world.device, evaluations=record.evaluations)
        _in_setting(
            here, setting, stage, source, world, folder / "metrics.json", folder / "samples.npz", facts
        )


def _in_setting(
    here: Here,
    setting: str,
    stage: Stage,
    source: Source,
    world: World,
    out: Path,
    samples: Path,
    facts: dict[str, Any],
) -> None:
    from gdd.files import write_json
    from gdd.metrics.stages import evaluate_in_setting

    evaluation = here.config.settings[setting].evaluation
    comparisons = _comparisons(stage, evaluation, source, world)
    metrics = evaluate_in_setting(source, evaluation, comparisons, out, samples, world=world)
    if world.main:
        write_json(out, {**metrics, **facts})
        say(f"{out}: FID {metrics['final']['mean']['fid']:.3f}, {metrics['evaluations']} evaluations.")


def _comparisons(stage: Stage, evaluation: Evaluation, source: Source, world: World) -> Comparisons:
    """Return what a setting's generators are compared with, all of the data set as it is now."""
    from gdd.data.image_array import ImageArray
    from gdd.metrics.comparison import open_comparisons
    from gdd.metrics.stages import check_data

    real = ImageArray.open(stage.path("data"))
    comparisons = open_comparisons(
        source,
        stage.path("references"),
        by_extractor(evaluation.wanted(), evaluation.extractor),
        weights=stage.paths("extractor"),
        dataset=real.name,
        device=world.device,
    )
    check_data(source, comparisons, real)
    return comparisons


@evaluate.command(hidden=True)
@click.argument("file", type=FILE)
@click.option(
    "--reference",
    type=FILE,
    required=True,
    help="A data set's folder in results/references; or one file of it, or published statistics.",
)
@click.option("--metrics", default="fid", show_default=True, help="Which, separated by commas.")
@click.option("--samples", type=click.IntRange(1), help="Images in a block; 50,000 if left out.")
@click.option("--blocks", type=click.IntRange(1), help="Blocks of images; 3 if there are as many.")
@click.option(
    "--extractor", default="inception", show_default=True, help="Of FID and all metrics that name none."
)
@click.option("--dataset", help="The data set that is meant, where the generator was made for another.")
@click.option("--out", type=FILE, required=True, help="Receives the metrics (json).")
@STEPS
@CHURN
@SEED
@BATCH
@DEVICE
@pass_here
def file(
    here: Here,
    file: Path,
    reference: Path,
    metrics: str,
    samples: int | None,
    blocks: int | None,
    extractor: str,
    dataset: str | None,
    out: Path,
    steps: int | None,
    churn: float,
    seed: int,
    batch: int,
    device: str,
) -> None:
    """Evaluate a generator's or a teacher's weights, or images: an .npz, a folder, a .zip, a .tar."""
    from gdd.metrics.comparison import open_comparisons
    from gdd.metrics.evaluate import evaluate_source, settle_counts
    from gdd.metrics.sources import open_source
    from gdd.training.world import join

    wanted = by_extractor([name.strip() for name in metrics.split(",") if name.strip()], extractor)
    weights = {name: _weights(here, name) for name in wanted if name != PIXELS}
    with join(device) as world:
        source = open_source(file, sampler=sampler(steps, churn), seed=seed, batch=batch, device=world.device)
        count, number = settle_counts(source, samples, blocks)
        comparisons = open_comparisons(
            source, reference, wanted, weights=weights, dataset=dataset, device=world.device
        )
        outcome = evaluate_source(source, comparisons, out, samples=count, blocks=number, world=world)
        if world.main:
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in outcome["mean"].items())
            say(f"{out}: {numbers} (mean of {number} x {count:,} images).")


def _weights(here: Here, name: str) -> Path:
    """Return where the weights of an extractor lie, known to be those that are published.

    Raises:
        UserError: there is no such extractor, it is not there, or its hash is another.
    """
    from gdd.fetch.fetch import Resources

    there = [*here.config.features, *EXTRACTORS]
    if name not in there:
        raise UserError(f"There is no extractor '{name}'; there are: {', '.join(there)}.")
    path = Path(network_input(here.config, name).path)
    if name in EXTRACTORS:
        source = here.config.sources[EXTRACTORS[name]]
        if not Resources(paths.RESOURCES, here.config.local).has(source):
            raise UserError(f"The extractor {name} needs {path}; run `gdd fetch {EXTRACTORS[name]}`.")
    return path


@click.command()
@click.argument("file", type=FILE)
@click.option("--num", type=click.IntRange(1), required=True, help="How many images.")
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="Index of the first one.")
@click.option("--class", "only_class", type=int, help="The class of all images; else classes are drawn.")
@click.option("--out", type=FILE, required=True, help="NAME.npz, a grid NAME.png, or a folder of PNGs.")
@STEPS
@CHURN
@SEED
@BATCH
@DEVICE
def sample(
    file: Path,
    num: int,
    start: int,
    only_class: int | None,
    out: Path,
    steps: int | None,
    churn: float,
    seed: int,
    batch: int,
    device: str,
) -> None:
    """Make images with the weights of a generator or a teacher in FILE and write them to OUT.

    Image i comes from the seed and i alone: parts made apart fit together, whatever the batches. With
    `torchrun ... -m -- gdd sample ...`, each process makes a part.
    """
    from gdd.metrics.export import export
    from gdd.metrics.sources import open_source
    from gdd.training.world import join

    with join(device) as world:
        source = open_source(
            file,
            sampler=sampler(steps, churn),
            seed=seed,
            batch=batch,
            device=world.device,
            only_class=only_class,
        )
        export(source, out, start=start, count=num, world=world)
        if world.main:
            say(f"{out}: {num:,} images of {source.shape} from {file}.")
