"""The command for the first minutes on a machine."""

from __future__ import annotations

import click

from gdd.commands.options import DEVICE, Here, pass_here
from gdd.errors import UserError
from gdd.gpus import claim, visible_devices

ON_GPU, ON_CPU = "cifar10-uncond", "digits"  # what is probed where nobody names a setting


@click.command()
@click.argument("setting", required=False)
@click.option("--seconds", type=float, default=75.0, show_default=True, help="In which steps are timed.")
@DEVICE
@pass_here
def probe(here: Here, setting: str | None, seconds: float, device: str) -> None:
    """Say in some minutes what this machine does with SETTING: is it right, how fast, what fits.

    Without SETTING that is cifar10-uncond on a GPU and the digits where there is none. Weights are random and
    nothing is downloaded. `gdd plan` and time limits go by results/probe/<card>.json from then on.
    """
    if device != "cpu" and not here.gpus and visible_devices():
        here.gpus = claim(1)  # no job of a workflow on this machine computes there meanwhile
    from gdd.probe.probe import probe as run
    from gdd.training.world import own_device

    place = own_device(device)
    name = setting or (ON_GPU if place.type == "cuda" else ON_CPU)
    if device == "auto" and place.type == "cpu" and here.config.settings[name].resources.gpus:
        raise UserError(
            f"The setting '{name}' is for GPUs, and torch sees none here; on a cluster put e.g. "
            "`srun --gres=gpu:1` before the same command. `gdd probe` alone probes the digits."
        )
    run(here.experiments, name, place, click.echo, seconds)
