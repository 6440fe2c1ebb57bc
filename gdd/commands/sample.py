"""The command that makes images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gdd.commands.options import DEVICE, FILE, say


def sampling(command: Any) -> Any:
    """Add the options of whatever makes images."""
    for option in (
        click.option("--sampler", help="A teacher's sampler as JSON, e.g. '{\"steps\": 18}'."),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the latents."),
        click.option(
            "--batch", type=click.IntRange(1), default=250, show_default=True, help="Images at once."
        ),
        DEVICE,
    ):
        command = option(command)
    return command


def opened(
    path: Path, sampler: str | None, seed: int, batch: int, device: str, only_class: int | None = None
) -> tuple[Any, Any]:
    """Return the source of images at `path`, and the device that networks run on."""
    from gdd.config.load import parse_record
    from gdd.config.recipe import Sampler
    from gdd.metrics.sources import open_source
    from gdd.training.world import own_device

    how = parse_record(Sampler, sampler) if sampler else None
    chosen = own_device(device)
    source = open_source(path, sampler=how, seed=seed, batch=batch, device=chosen, only_class=only_class)
    return source, chosen


@click.command()
@click.option("--generator", type=FILE, required=True, help="Weights of a generator, or of a teacher.")
@click.option("--num", type=click.IntRange(1), required=True, help="How many images.")
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="Index of the first one.")
@click.option("--class", "only_class", type=int, help="The class of all images; else classes are drawn.")
@click.option("--out", type=FILE, required=True, help="NAME.npz, a grid NAME.png, or a folder of PNGs.")
@sampling
def sample(generator: Path, num: int, start: int, only_class: int | None, out: Path, **options: Any) -> None:
    """Make images and write them to OUT.

    Image i comes from the seed and i alone: parts made apart fit together, whatever the batches. With
    `torchrun ... -m -- gdd sample ...`, each process makes a part.
    """
    from gdd.metrics.export import export
    from gdd.training.world import join

    with join(options["device"]) as world:
        source, _ = opened(generator, only_class=only_class, **options)
        export(source, out, start=start, count=num, world=world)
        if world.main:
            say(f"{out}: {num:,} images of {source.shape} from {generator}.")
