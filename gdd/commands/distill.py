"""The command that trains a student."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import click

from gdd import paths
from gdd.commands.options import CHECKPOINT_EVERY, DEVICE, EXPECT, Here, pass_here, refuse_freeze
from gdd.config.local import Local
from gdd.config.probed import known_probe
from gdd.config.recipe import Recipe
from gdd.stages.inputs import reference_dataset, stated_sha256
from gdd.stages.stage import Stage

if TYPE_CHECKING:
    from gdd.distill.distill import Inputs
    from gdd.metrics.monitor import FidMonitor


@click.command()
@click.argument("setting")
@click.argument("run")
@click.option("--seed", type=click.IntRange(0), required=True)
@CHECKPOINT_EVERY
@click.option(
    "--processes",
    type=click.IntRange(1),
    help="On each machine; without it, one for each GPU of `gdd --gpus`.",
)
@click.option("--nodes", type=click.IntRange(1), default=1, help="Machines of a SLURM job to spread over.")
@DEVICE
@click.option("--images-at-once", type=click.IntRange(1), help="Per device; found out where a GPU is used.")
@click.option("--tf32", is_flag=True, help="Let a GPU round the factors of float32 products to 10 bits.")
@click.option(
    "--cuda-graphs/--no-cuda-graphs",
    default=None,
    help="Record a step's kernels once and run them again, or not; else what `gdd probe` found faster.",
)
@click.option("--patience", type=click.IntRange(1), help="Steps without a finite loss that end the run.")
@EXPECT
@pass_here
def distill(
    here: Here,
    setting: str,
    run: str,
    seed: int,
    checkpoint_every: int | None,
    processes: int | None,
    nodes: int,
    device: Literal["auto", "cpu", "cuda"],
    images_at_once: int | None,
    tf32: bool,
    cuda_graphs: bool | None,
    patience: int | None,
    expect: str | None,
) -> None:
    """Train a one-step generator: RUN of SETTING, by its folder's name. The same command resumes it.

    The number of processes and whatever else belongs to the machine changes results by rounding only.
    """
    stage = here.stage("distill", expect, setting=setting, run=run, seed=seed)
    recipe = here.experiments.find(setting, run)
    refuse_freeze(here.config, recipe)
    if "RANK" not in os.environ:
        _start_others(here, recipe, processes, nodes)

    from gdd.distill.distill import distill as train
    from gdd.training.world import Execution

    local = here.config.local
    tf32 = tf32 or local.tf32
    graphs = local.cuda_graphs if cuda_graphs is None else cuda_graphs
    if graphs is None:
        graphs = device != "cpu" and _graphs_pay(here, setting, tf32=tf32)
    execution = Execution(device=device, images_at_once=images_at_once, tf32=tf32, cuda_graphs=graphs)
    if patience:
        execution = replace(execution, patience=patience)
    train(
        paths.run_folder(setting, run, seed),
        recipe,
        seed,
        training_inputs(stage, local),
        checkpoint_every=checkpoint_every,
        execution=execution,
        monitor=_monitor(here, setting, stage),
    )


def training_inputs(stage: Stage, local: Local) -> Inputs:
    """Return the files that a run starts from, with the data where this machine reads them fastest."""
    from gdd.data.image_array import staged
    from gdd.distill.distill import Inputs

    return Inputs(
        teacher=stage.path("teacher"),
        data=staged(stage.path("data"), local.scratch_folder()),
        backbones=stage.paths("backbone"),
        pairs=stage.find("pairs"),
        lpips=stage.find("lpips"),
        class_embedding=stage.find("embedding"),
    )


def _graphs_pay(here: Here, setting: str, *, tf32: bool) -> bool:
    """Return whether `gdd probe` found CUDA graphs to be faster on this machine's card."""
    probe = known_probe(here.config.local.card)
    of = probe.of(setting, here.config.settings[setting].like) if probe else None
    return of is not None and of.graphs_pay(tf32=tf32)


def _monitor(here: Here, setting: str, stage: Stage) -> FidMonitor | None:
    """Return what logs a FID on the way, if the setting asks for it."""
    from gdd.metrics.monitor import FidMonitor

    wanted = here.config.settings[setting].monitor
    if wanted is None:
        return None
    return FidMonitor(
        wanted.fid,
        stage.path("monitor extractor"),
        stage.path("monitor reference"),
        every=wanted.every,
        trusted=stated_sha256(here.config),
        dataset=reference_dataset(here.config, setting),
    )


def _start_others(here: Here, recipe: Recipe, processes: int | None, nodes: int) -> None:
    """Start the processes that a run is to have and end as they do; return where it has only this one."""
    from gdd.training.layout import most_processes
    from gdd.training.processes import ONE, launch, own_place, spread

    gpus = len(here.gpus)
    command = [sys.executable, "-m", "gdd", *sys.argv[1:]]
    place = own_place()
    if nodes > 1 and place is None:
        spread(command, nodes, gpus)
    if processes is None:
        processes = most_processes(recipe, max(gpus, 1) * nodes, step=nodes) // nodes
    if processes * nodes > 1:
        sys.exit(launch(command, processes, place or ONE))
