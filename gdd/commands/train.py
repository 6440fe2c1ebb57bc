"""Commands that train, and solve what is trained on."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from gdd.commands.options import CONFIG_FOLDER, DEVICE, FILE, claimed
from gdd.errors import UserError

if TYPE_CHECKING:
    from gdd.config.recipe import Recipe
    from gdd.distill.distill import GeneratorMonitor


@click.command()
@click.argument("folder", type=FILE)
@click.option("--data", type=FILE, required=True, help="The data set's folder.")
@click.option("--record", required=True, help="A file of config/teachers/, or its content as JSON.")
@click.option("--checkpoint-every", type=click.IntRange(1), help="Images between two checkpoints.")
def teacher(folder: Path, data: Path, record: str, checkpoint_every: int | None) -> None:
    """Train a teacher in FOLDER; the same command resumes it."""
    from gdd.config.load import parse_record
    from gdd.config.records import Teacher
    from gdd.data.image_array import ImageArray
    from gdd.diffusion.teacher import train_teacher

    wanted = parse_record(Teacher, record)
    if wanted.training is None:
        raise UserError(f"The teacher in {folder} is a published one; get it with `gdd import-teacher`.")
    train_teacher(
        folder,
        wanted.training,
        wanted.architecture,
        ImageArray.open(data),
        checkpoint_every=checkpoint_every,
    )


@click.command()
@click.argument("out", type=FILE)
@click.option("--teacher", "model", type=FILE, required=True, help="The teacher's weights.")
@click.option("--sampler", required=True, help="The sampler as JSON, e.g. '{\"steps\": 18}'.")
@click.option("--count", type=click.IntRange(1), required=True, help="Number of pairs.")
@DEVICE
def pairs(out: Path, model: Path, sampler: str, count: int, device: str) -> None:
    """Solve the teacher's ODE from COUNT noises and write the pairs to OUT."""
    from gdd.config.load import parse_record
    from gdd.config.recipe import Sampler
    from gdd.diffusion.sampling import make_pairs
    from gdd.training.world import own_device

    make_pairs(out, model, parse_record(Sampler, sampler), count, device=own_device(device))


@click.command()
@click.argument("run_folder", metavar="FOLDER", type=FILE)
@click.option("--recipe", required=True, help="The recipe as JSON, or a file that holds it.")
@click.option("--seed", type=click.IntRange(0), required=True)
@click.option("--teacher", "model", type=FILE, required=True, help="The teacher's weights.")
@click.option("--data", type=FILE, required=True, help="The data set's folder.")
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="NAME=FILE",
    help="NAME.safetensors needs no NAME; repeatable.",
)
@click.option("--pairs", "pairs_file", type=FILE, help="Solved pairs of noise and image.")
@click.option("--lpips", type=FILE, help="VGG-16 of torchvision, for objectives that measure with LPIPS.")
@click.option("--class-embedding", type=FILE, help="StyleGAN-XL's table, for recipes that start from it.")
@click.option("--checkpoint-every", type=click.IntRange(1), help="Images between two checkpoints.")
@click.option(
    "--processes",
    type=click.IntRange(1),
    help="On each machine; without it, one for each GPU of `gdd --gpus`.",
)
@click.option("--nodes", type=click.IntRange(1), default=1, help="Machines of a SLURM job to spread over.")
@DEVICE
@click.option("--images-at-once", type=click.IntRange(1), help="Per device; found out where a GPU is used.")
@click.option("--tf32", is_flag=True, help="Let a GPU round the factors of float32 products to 10 bits.")
@click.option("--patience", type=click.IntRange(1), help="Steps without a finite loss that end the run.")
@click.option("--monitor-fid", type=click.IntRange(1), help="Log the FID of so many images on the way.")
@click.option("--monitor-every", type=click.IntRange(1), help="Images between two; else as snapshots.")
@click.option("--judge", type=FILE, help="For --monitor-fid: weights of the network that judges.")
@click.option("--judge-reference", type=FILE, help="For --monitor-fid: its features of the data set.")
@click.option("--judge-dataset", help="For --monitor-fid: whose features, if not the run's data set's.")
@CONFIG_FOLDER
def distill(
    run_folder: Path,
    recipe: str,
    seed: int,
    model: Path,
    data: Path,
    backbones: tuple[str, ...],
    pairs_file: Path | None,
    lpips: Path | None,
    class_embedding: Path | None,
    checkpoint_every: int | None,
    processes: int | None,
    nodes: int,
    device: Literal["auto", "cpu", "cuda"],
    images_at_once: int | None,
    tf32: bool,
    patience: int | None,
    folder: Path,
    **monitoring: Any,
) -> None:
    """Train a one-step generator in FOLDER; the same command resumes it.

    The number of processes and whatever else belongs to the machine changes results by rounding only. What
    --monitor-fid logs is for the trend: it has no part in the run, and compares with no FID of 50,000 images.
    """
    from gdd.config.load import parse_record
    from gdd.config.recipe import Recipe

    wanted = parse_record(Recipe, recipe)
    if "RANK" not in os.environ:
        _start_others(wanted, processes, nodes)

    from gdd.config.local import load_local
    from gdd.data.staging import stage
    from gdd.distill.distill import Inputs
    from gdd.distill.distill import distill as run
    from gdd.training.execution import Execution

    files = dict(_named(entry) for entry in backbones)
    local = load_local(folder)
    staged = stage(data.parent if data.suffix == ".json" else data, local.scratch_folder())
    inputs = Inputs(
        teacher=model,
        data=staged,
        backbones=files,
        pairs=pairs_file,
        lpips=lpips,
        class_embedding=class_embedding,
    )
    execution = Execution(
        device=device,
        images_at_once=images_at_once,
        tf32=tf32 or local.tf32,
    )
    if patience:
        execution = replace(execution, patience=patience)
    run(
        run_folder,
        wanted,
        seed,
        inputs,
        checkpoint_every=checkpoint_every,
        execution=execution,
        monitor=_monitor(**monitoring),
    )


def _monitor(
    monitor_fid: int | None,
    monitor_every: int | None,
    judge: Path | None,
    judge_reference: Path | None,
    judge_dataset: str | None,
) -> GeneratorMonitor | None:
    if monitor_fid is None:
        if any((monitor_every, judge, judge_reference, judge_dataset)):
            raise UserError(
                "--monitor-every and --judge... belong to --monitor-fid; give it a number of images."
            )
        return None
    if judge is None or judge_reference is None:
        raise UserError("--monitor-fid needs to know what judges: give --judge and --judge-reference.")
    from gdd.metrics.monitor import FidMonitor

    return FidMonitor(monitor_fid, judge, judge_reference, every=monitor_every, dataset=judge_dataset)


def _start_others(recipe: Recipe, processes: int | None, nodes: int) -> None:
    """Start the processes that a run is to have and end as they do; return where it has only this one."""
    from gdd.training.launch import ONE, launch, own_place, spread
    from gdd.training.layout import most_processes

    gpus = claimed()
    command = [sys.executable, "-m", "gdd", *sys.argv[1:]]
    place = own_place()
    if nodes > 1 and place is None:
        spread(command, nodes, len(gpus.devices))
    if processes is None:
        most = max(len(gpus.devices), 1) * nodes
        processes = most_processes(recipe, most, step=nodes) // nodes
    if processes * nodes > 1:
        sys.exit(launch(command, processes, place or ONE))


def _named(entry: str) -> tuple[str, Path]:
    name, equals, file = entry.partition("=")
    return (name, Path(file)) if equals else (Path(entry).stem, Path(entry))
