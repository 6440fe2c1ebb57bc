"""What commands share: the configuration they read, options, and how they speak."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click

from gdd.config.config import Config, load_config
from gdd.config.recipe import Recipe
from gdd.experiments import Experiments
from gdd.stages import STAGES
from gdd.stages.stage import Stage

FILE = click.Path(path_type=Path)


@dataclass
class Here:
    """The configuration of this call, read when it is first needed, and the GPUs that are its own."""

    folder: Path
    extra: tuple[Path, ...]
    gpus: tuple[str, ...] = ()

    @cached_property
    def experiments(self) -> Experiments:
        return Experiments(load_config(self.folder, self.extra))

    @property
    def config(self) -> Config:
        return self.experiments.config

    def stage(self, kind: str, planned: str | None = None, /, **names: str | int) -> Stage:
        """Return a stage for these names.

        Raises:
            UserError: the configuration is another than the one that was `planned`, or has no such names.
        """
        stage = STAGES[kind](self.experiments, **names)
        stage.expect(planned)
        return stage


pass_here = click.make_pass_decorator(Here)

EXPECT = click.option(
    "--expect", metavar="HASH", help="What the stage was planned with; another configuration is refused."
)
# `gdd --gpus` says in the variable where to compute.
DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    envvar="GDD_DEVICE",
    show_default=True,
    help="Where networks run; auto is a GPU wherever there is one.",
)
TRUST = click.option(
    "--trust-sha256",
    metavar="HASH",
    multiple=True,
    help="Of an extractor whose file is code and is to be run.",
)
CHECKPOINT_EVERY = click.option(
    "--checkpoint-every", type=click.IntRange(1), help="Images between two checkpoints."
)


def refuse_freeze(config: Config, recipe: Recipe) -> None:
    """Refuse a user's own patterns that freeze nothing, or everything, of the teacher's architecture.

    Raises:
        UserError: naming the pattern.
    """
    if isinstance(recipe.freeze, str):
        return
    from gdd.distill.distill import check_freeze  # imports torch

    check_freeze(recipe, config.teachers[recipe.teacher].architecture)


def say(sentence: str) -> None:
    """Tell the person at the terminal, and the log file."""
    logging.getLogger("gdd").info(sentence)
