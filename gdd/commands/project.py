"""Commands about the project as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from gdd import paths
from gdd.commands.options import EXPECT, FILE, Here, pass_here, refuse_freeze, say
from gdd.config.metrics import PIXELS
from gdd.config.names import FEATURES
from gdd.errors import UserError
from gdd.stages.inputs import reference_dataset


@click.command()
@pass_here
def check(here: Here) -> None:
    """Check the whole configuration, and count its tables and runs."""
    config, tables = here.config, here.experiments.tables
    runs = {run for rows in tables.values() for row in rows for run in row.runs}
    for name, setting in config.settings.items():
        real = config.datasets[reference_dataset(config, name)]
        features = FEATURES | {key: of.features for key, of in config.features.items()}
        features[PIXELS] = real.channels * real.resolution**2
        if problem := setting.evaluation.too_few(real.images, features):
            raise UserError(f"{config.where('settings', name)}: {problem}.")
    for (name, run_id), recipe in here.experiments.recipes.items():
        # What it reads: every published network has to have its file in sources.yaml.
        for stage in ("distill", "evaluate_run"):
            here.stage(stage, setting=name, run=run_id, seed=0)
        try:
            refuse_freeze(config, recipe)
        except UserError as error:
            raise UserError(f"The run '{run_id}' of the setting '{name}': {error}") from None
    click.echo(f"{len(tables)} tables, {len(runs)} runs: the configuration is valid.")


@click.command()
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
@pass_here
def plan(here: Here, targets: tuple[str, ...], as_json: bool) -> None:
    """Say what TARGET (`all`, if left out) takes: jobs, GPU-hours, disk, hours; starts nothing."""
    # In a process of its own: the plan is Snakemake's, which this package does not import.
    command = [sys.executable, "-m", "workflow.lib.plan", "--folder", str(here.folder)]
    command += [word for folder in here.extra for word in ("--extra", str(folder))]
    sys.exit(subprocess.run([*command, *(["--json"] if as_json else []), *targets], check=False).returncode)


@click.command()
@click.argument("folder", type=FILE, default=Path("config/schema"))
def schema(folder: Path) -> None:
    """Write the JSON schemas of the configuration files to FOLDER."""
    from gdd.config.config import write_schemas

    for path in write_schemas(folder):
        click.echo(path)


@click.command()
@click.argument("results", type=FILE, default=paths.RESULTS)
@click.option("--once", is_flag=True, help="Print one table and end.")
@click.option("--interval", type=float, default=2.0, show_default=True, help="Seconds between updates.")
def watch(results: Path, once: bool, interval: float) -> None:
    """Show every run below RESULTS live, wherever it is being trained."""
    from gdd.watch import watch as show

    show(results, once=once, interval=interval)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every file of sources.yaml.")
@click.option("--list", "listed", is_flag=True, help="Say what each file is, and whether it is there.")
@click.option("--offline", is_flag=True, help="Use no network; list what is missing and where to put it.")
@click.option("--verify", is_flag=True, help="Read again what is there, even if it has not changed.")
@click.option("--note", is_flag=True, help="Note path and SHA-256 of each file in results/fetched/.")
@EXPECT
@pass_here
def fetch(
    here: Here,
    names: tuple[str, ...],
    everything: bool,
    listed: bool,
    offline: bool,
    verify: bool,
    note: bool,
    expect: str | None,
) -> None:
    """Download the files NAMES of sources.yaml, verified; the same command goes on where it stopped."""
    from gdd.commands.layouts import layouts
    from gdd.fetch.fetch import Resources, listing
    from gdd.fetch.fetch import fetch as run
    from gdd.files import sha256, write_json

    if not (names or everything or listed):
        raise UserError("Name what to fetch, or use --all; --list shows what there is.")
    sources, local = here.config.sources, here.config.local
    if not sources:
        raise UserError(f"{here.folder}/sources.yaml does not exist; `gdd --config` says where it lies.")
    wanted = {name: sources[name] for name in names} if names and not everything else sources
    if listed:
        click.echo(listing(wanted, paths.RESOURCES))
        return
    for name in wanted if expect else ():
        here.stage("fetch", expect, name=name)
    resources, offline = Resources(paths.RESOURCES, local), offline or local.offline
    checks = layouts(here.config)
    fetched = run(wanted, resources, offline=offline, verify=verify, checks=checks)
    if note:
        lock = resources.entries()
        for name, of in wanted.items():
            # A folder nobody may write to has no lock.
            known = lock[of.path].sha256 if of.path in lock else sha256(paths.RESOURCES / of.path)
            write_json(paths.note(name), {"path": of.path, "sha256": known})
    say(f"{len(fetched)} fetched, {len(wanted) - len(fetched)} were there; all verified.")
