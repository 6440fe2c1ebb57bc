"""What several commands share: options, and how a command speaks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from gdd.gpus import Claim

FILE = click.Path(path_type=Path)

# The workflow says in these where its configuration lies, so that no rule has to.
CONFIG_FOLDER = click.option(
    "--config", "folder", type=FILE, default=Path("config"), envvar="GDD_CONFIG", show_default=True
)
EXTRA_FOLDERS = click.option(
    "--extra",
    type=FILE,
    multiple=True,
    envvar="GDD_EXTRA",
    help="Further configuration folder, repeatable.",
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


def claimed() -> Claim:
    """Return the GPUs that `gdd --gpus` made this command's own."""
    return click.get_current_context().find_root().obj or Claim()


def configured(command: Any) -> Any:
    """Add the options that say where configuration and results lie."""
    for option in (
        CONFIG_FOLDER,
        EXTRA_FOLDERS,
        click.option("--results", type=FILE, default=Path("results"), show_default=True),
    ):
        command = option(command)
    return command


def load_experiments(folder: Path, extra: tuple[Path, ...]) -> Any:
    """Return the experiments of the configuration in these folders."""
    from gdd.config.load import load_config
    from gdd.experiments import Experiments

    return Experiments(load_config(folder, extra))


def say(sentence: str) -> None:
    """Tell the person at the terminal, and the log file."""
    logging.getLogger("gdd").info(sentence)
