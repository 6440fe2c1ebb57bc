"""Commands that judge generators."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from gdd.commands.options import CONFIG_FOLDER, DEVICE, FILE, say
from gdd.commands.sample import opened, sampling
from gdd.errors import UserError

WEIGHTS = click.option(
    "--extractor",
    "weights",
    multiple=True,
    metavar="NAME=FILE",
    help="Where an extractor's weights lie, if not among fetched files; repeatable.",
)
RESOURCES = click.option("--resources", type=FILE, default=Path("resources"), show_default=True)


def judging(command: Any) -> Any:
    """Add the options that every evaluation of a setting needs."""
    for option in (
        click.option("--evaluation", required=True, help="A setting's `evaluation` as JSON."),
        click.option("--data", type=FILE, required=True, help="The data set's folder."),
        click.option("--references", type=FILE, required=True, help="The folder of its references."),
        WEIGHTS,
        DEVICE,
        RESOURCES,
        CONFIG_FOLDER,
    ):
        command = option(command)
    return command


@click.command("evaluate-run")
@click.argument("run_folder", metavar="FOLDER", type=FILE)
@judging
def evaluate_run(run_folder: Path, **options: Any) -> None:
    """Judge the snapshots of the run in FOLDER and write FOLDER/metrics.json.

    Interrupted, the same command goes on with the first block of a snapshot that is not done. With
    `torchrun ... -m -- gdd evaluate-run ...`, each process sees a part of the images.
    """
    from gdd.distill.snapshots import keep_only
    from gdd.files import read_json, write_json
    from gdd.metrics.sources import open_source
    from gdd.metrics.stages import evaluate_run as run
    from gdd.metrics.stages import snapshots
    from gdd.training.world import join

    with join(options["device"]) as world:
        last = open_source(snapshots(run_folder)[-1])
        evaluation, comparisons = of_setting(last, **options)
        metrics = run(run_folder, evaluation, comparisons, world=world)
        if not world.main:
            return
        write_json(run_folder / "metrics.json", metrics)
        if read_json(run_folder / "run.json")["recipe"].get("keep") == "reported":
            shown = [metrics["final"], metrics["best"], *metrics.get("also_at", {}).values()]
            keep_only(run_folder, {snapshot["images"] for snapshot in shown})
        fid = metrics["final"]["mean"].get("fid", math.nan)
        say(f"{run_folder}: FID {fid:.3f} after {metrics['final']['images']:,} images.")


@click.command("evaluate-teacher")
@click.argument("out", type=FILE)
@click.option("--teacher", "model", type=FILE, required=True, help="The teacher's weights.")
@click.option("--sampler", required=True, help="The sampler as JSON, e.g. '{\"steps\": 18}'.")
@click.option("--samples", type=FILE, required=True, help="Receives the first images (npz).")
@judging
def evaluate_teacher(out: Path, model: Path, sampler: str, samples: Path, **options: Any) -> None:
    """Judge a teacher sampled at some number of steps and write the metrics to OUT (json)."""
    from gdd.config.load import parse_record
    from gdd.config.recipe import Sampler
    from gdd.files import write_json
    from gdd.metrics.sources import open_source
    from gdd.metrics.stages import evaluate_in_setting
    from gdd.training.world import join

    with join(options["device"]) as world:
        how = parse_record(Sampler, sampler)
        source = open_source(model, sampler=how, device=world.device)
        evaluation, comparisons = of_setting(source, **options)
        metrics = evaluate_in_setting(source, evaluation, comparisons, out, samples, world=world)
        if world.main:
            write_json(out, {"kind": "teacher", "sampler": how.model_dump(mode="json"), **metrics})
            fid, steps = metrics["final"]["mean"]["fid"], metrics["evaluations"]
            say(f"{out}: FID {fid:.3f} with {steps} evaluations.")


@click.command()
@click.option(
    "--generator",
    type=FILE,
    required=True,
    help="Weights of a generator or a teacher; or images: an .npz, a folder, a .zip, a .tar.",
)
@click.option(
    "--reference",
    type=FILE,
    required=True,
    help="A data set's folder in results/references; or one file of it, or published statistics.",
)
@click.option("--metrics", default="fid", show_default=True, help="Which, separated by commas.")
@click.option("--samples", type=click.IntRange(1), help="Images in a block; 50,000 if left out.")
@click.option("--blocks", type=click.IntRange(1), help="Blocks of images; 3 if there are as many.")
@click.option("--judge", default="inception", show_default=True, help="The extractor of FID and most others.")
@WEIGHTS
@click.option("--dataset", help="The data set that is meant, where the generator was made for another.")
@click.option("--out", type=FILE, required=True, help="Receives the metrics (json).")
@RESOURCES
@CONFIG_FOLDER
@sampling
def evaluate(
    generator: Path,
    reference: Path,
    metrics: str,
    samples: int | None,
    blocks: int | None,
    judge: str,
    weights: tuple[str, ...],
    dataset: str | None,
    out: Path,
    resources: Path,
    folder: Path,
    **options: Any,
) -> None:
    """Judge images by every metric asked for, in one pass, and write the metrics to OUT.

    \b
    Metrics of the judge: fid, kid, precision, recall, density, coverage, inception_score.
    Of other extractors: clean_fid, clean_kid, clip_fid, fd_dinov2, pixel_fid, pixel_precision,
    pixel_recall, pixel_density, pixel_coverage, nearest.

    Interrupted, the same command goes on with the first block that is not done. With
    `torchrun ... -m -- gdd evaluate ...`, each process sees a part of the images; the numbers are the same.
    """
    from gdd.config.metrics import by_extractor
    from gdd.metrics.comparison import open_comparisons
    from gdd.metrics.evaluate import evaluate_source, settle_counts
    from gdd.training.world import join

    with join(options["device"]) as world:
        source, device = opened(generator, **options)
        wanted = by_extractor([name.strip() for name in metrics.split(",") if name.strip()], judge)
        count, number = settle_counts(source, samples, blocks)
        comparisons = open_comparisons(
            source,
            reference,
            wanted,
            weights=dict(_named(entry) for entry in weights),
            config=folder,
            resources=resources,
            dataset=dataset,
            device=device,
        )
        outcome = evaluate_source(source, comparisons, out, samples=count, blocks=number, world=world)
        if world.main:
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in outcome["mean"].items())
            say(f"{out}: {numbers} (mean of {number} x {count:,} images).")


def _named(entry: str) -> tuple[str, Path]:
    name, equals, file = entry.partition("=")
    if not equals or not name or not file:
        raise UserError(f"--extractor {entry} should be NAME=FILE.")
    return name, Path(file)


def of_setting(
    source: Any,
    evaluation: str,
    data: Path,
    references: Path,
    weights: tuple[str, ...],
    device: str,
    resources: Path,
    folder: Path,
) -> tuple[Any, Any]:
    """Return how a setting judges, and with what."""
    from gdd.config.evaluation import Evaluation
    from gdd.config.load import parse_record
    from gdd.config.metrics import by_extractor
    from gdd.data.image_array import ImageArray
    from gdd.metrics.comparison import open_comparisons
    from gdd.metrics.stages import check_data
    from gdd.training.world import own_device

    how, real = parse_record(Evaluation, evaluation), ImageArray.open(data)
    comparisons = open_comparisons(
        source,
        references,
        by_extractor(how.wanted(), how.extractor),
        weights=dict(_named(entry) for entry in weights),
        config=folder,
        resources=resources,
        dataset=real.name,
        device=own_device(device),
    )
    check_data(source, comparisons, real)
    return how, comparisons
