"""Commands that bring or train teachers, and solve what students imitate."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from gdd import paths
from gdd.commands.options import CHECKPOINT_EVERY, DEVICE, EXPECT, FILE, Here, pass_here, say
from gdd.config.architecture import Architecture
from gdd.errors import UserError
from gdd.stages.inputs import external_path


@click.command()
@click.argument("name")
@CHECKPOINT_EVERY
@EXPECT
@pass_here
def teacher(here: Here, name: str, checkpoint_every: int | None, expect: str | None) -> None:
    """Import the published teacher NAME, or train it; the same command resumes an interrupted training."""
    from gdd.data.image_array import ImageArray
    from gdd.diffusion.teacher import train_teacher
    from gdd.networks.edm_import import import_network, write_identity

    stage, record = here.stage("teacher", expect, teacher=name), here.config.teachers[name]
    folder = paths.teacher_folder(name)
    if record.training is not None:
        data = ImageArray.open(stage.path("data"))
        train_teacher(folder, record.training, record.architecture, data, checkpoint_every=checkpoint_every)
        return
    weights = folder / "model.safetensors"
    made = import_network(
        stage.path("source"),
        weights,
        licence=here.config.sources[record.published or ""].licence,
        expected=record.architecture,
        dataset=record.dataset,
    )
    write_identity(folder / "model.json", weights)
    say(f"{weights}: {_in_words('denoiser', made)}")


@click.command("import-teacher")
@click.argument("source", type=FILE)
@click.argument("destination", type=FILE)
@click.option("--key", default="ema", show_default=True, help="Which of the networks in the file.")
@click.option(
    "--kind",
    type=click.Choice(["denoiser", "generator"]),
    default="denoiser",
    show_default=True,
    help="What it is: a teacher, or a one-step generator that others published.",
)
@click.option("--licence", help="Licence of the weights; that of EDM's if left out.")
def import_teacher(
    source: Path, destination: Path, key: str, kind: Literal["denoiser", "generator"], licence: str | None
) -> None:
    """Turn a published network SOURCE (pkl) into DESTINATION (safetensors); no code in SOURCE is run."""
    from gdd.networks.edm_import import EDM_LICENCE, import_network

    made = import_network(source, destination, key=key, kind=kind, licence=licence or EDM_LICENCE)
    say(f"{destination}: {_in_words(kind, made)}")


@click.command("import-external")
@click.argument("setting")
@click.argument("name")
@EXPECT
@pass_here
def import_external(here: Here, setting: str, name: str, expect: str | None) -> None:
    """Import the generator that others published as NAME for SETTING; no code in its file is run."""
    from gdd.networks.edm_import import import_generator, write_identity

    stage, record = (
        here.stage("import_external", expect, setting=setting, external=name),
        here.config.external[name],
    )
    weights = paths.external_folder(setting, name) / "model.safetensors"
    dataset = stage.decided_by["dataset"]
    source = external_place(here, setting, name)
    made = import_generator(source, weights, key=record.key, licence=record.licence, dataset=dataset)
    write_identity(weights.with_suffix(".json"), weights)
    say(f"{weights}: {_in_words('generator', made)}")


def external_place(here: Here, setting: str, name: str) -> Path:
    """Return where others' work lies.

    Raises:
        UserError: nobody said where.
    """
    path = external_path(here.config, setting, name)
    if path is None:
        raise UserError(
            f"Nobody said where {name} for {setting} lies; add it to {here.folder}/local.yaml as "
            f"`external: {{{name}: {{{setting}: PATH}}}}`."
        )
    return path


@click.command()
@click.argument("teacher")
@click.option("--steps", type=click.IntRange(1), required=True, help="Of the teacher's sampler.")
@click.option("--count", type=click.IntRange(1), required=True, help="Number of pairs.")
@DEVICE
@pass_here
def pairs(here: Here, teacher: str, steps: int, count: int, device: str) -> None:
    """Solve the ODE of TEACHER from COUNT samples of noise, for students that imitate it directly."""
    from gdd.diffusion.sampler import make_pairs
    from gdd.training.world import own_device

    stage = here.stage("pairs", teacher=teacher, steps=steps, pairs=count)
    out = paths.pairs_file(teacher, steps, count)
    make_pairs(out, stage.path("teacher"), steps, count, own_device(device))


def _in_words(kind: str, made: Architecture) -> str:
    side = made.img_resolution
    return f"a {kind} of {side}x{side} images, {made.label_dim or 'no'} classes."
