"""Commands that judge generators."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from gdd.commands.options import FILE, say


def _judging(command: Any) -> Any:
    """Add the options that every evaluation needs."""
    for option in (
        click.option("--evaluation", required=True, help="A setting's `evaluation` as JSON."),
        click.option("--data", type=FILE, required=True, help="The data set's folder."),
        click.option("--judge", type=FILE, required=True, help="Weights of the network that judges."),
        click.option("--judge-reference", type=FILE, required=True, help="Its features of the data set."),
        click.option("--pixel-reference", type=FILE, help="The data set's pixels as a reference."),
    ):
        command = option(command)
    return command


@click.command("evaluate-run")
@click.argument("folder", type=FILE)
@_judging
def evaluate_run(folder: Path, **options: Any) -> None:
    """Judge the snapshots of the run in FOLDER and write FOLDER/metrics.json."""
    from gdd.files import write_json
    from gdd.metrics.stages import evaluate_run as run

    evaluation, references = _references(**options)
    metrics = run(folder, evaluation, references)
    write_json(folder / "metrics.json", metrics)
    fid = metrics["final"]["mean"].get("fid", math.nan)
    say(f"{folder}: FID {fid:.3f} after {metrics['final']['images']:,} images.")


@click.command("evaluate-teacher")
@click.argument("out", type=FILE)
@click.option("--teacher", "model", type=FILE, required=True, help="The teacher's weights.")
@click.option("--sampler", required=True, help="The sampler as JSON, e.g. '{\"steps\": 18}'.")
@click.option("--samples", type=FILE, required=True, help="Receives the first images (npz).")
@_judging
def evaluate_teacher(out: Path, model: Path, sampler: str, samples: Path, **options: Any) -> None:
    """Judge a teacher sampled at some number of steps and write the metrics to OUT (json)."""
    from gdd.config.load import parse_record
    from gdd.config.recipe import Sampler
    from gdd.files import write_json
    from gdd.metrics.stages import evaluate_teacher as run

    evaluation, references = _references(**options)
    metrics = run(model, parse_record(Sampler, sampler), evaluation, references, samples)
    write_json(out, metrics)
    say(f"{out}: FID {metrics['final']['mean']['fid']:.3f} with {metrics['evaluations']} evaluations.")


def _references(
    evaluation: str, data: Path, judge: Path, judge_reference: Path, pixel_reference: Path | None
) -> tuple[Any, Any]:
    from gdd.config.load import parse_record
    from gdd.config.records import Evaluation
    from gdd.data.image_array import ImageArray
    from gdd.metrics.stages import open_references

    opened = open_references(ImageArray.open(data), judge, judge_reference, pixel_reference)
    return parse_record(Evaluation, evaluation), opened
