"""Commands about the project as a whole."""

from __future__ import annotations

from pathlib import Path

import click

from gdd.commands.options import FILE, configured, load_experiments


@click.command()
@configured
def check(folder: Path, extra: tuple[Path, ...], results: Path) -> None:  # noqa: ARG001
    """Check the whole configuration, and say what it adds up to."""
    from gdd.config.local import load_local
    from gdd.config.sources import load_sources

    load_local(folder)
    if (folder / "sources.yaml").exists():
        load_sources(folder)
    experiments = load_experiments(folder, extra)
    runs = {run for rows in experiments.tables.values() for row in rows for run in row.runs}
    click.echo(f"{len(experiments.tables)} tables of {len(runs)} runs, all in order.")


@click.command()
@click.argument("names", metavar="[TARGET]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
@configured
def plan(names: tuple[str, ...], as_json: bool, folder: Path, extra: tuple[Path, ...], results: Path) -> None:
    """Say what TARGET (`all`, if left out) takes: jobs, GPU-hours, disk, hours; starts nothing."""
    import json

    from gdd.plan.plan import make_plan
    from gdd.plan.show import print_plan
    from gdd.targets import Targets

    made = make_plan(Targets(load_experiments(folder, extra)), names or ("all",), results)
    if as_json:
        click.echo(json.dumps(made.plain(), indent=2))
    else:
        print_plan(made)


@click.command()
@click.argument("folder", type=FILE, default=Path("config/schema"))
def schema(folder: Path) -> None:
    """Write the JSON schemas of the configuration files to FOLDER."""
    from gdd.config.load import write_schemas

    for path in write_schemas(folder):
        click.echo(path)


@click.command()
@click.argument("results", type=FILE, default=Path("results"))
@click.option("--once", is_flag=True, help="Print one table and end.")
@click.option("--interval", type=float, default=2.0, show_default=True, help="Seconds between updates.")
def watch(results: Path, once: bool, interval: float) -> None:
    """Show every run below RESULTS live, wherever it is being trained."""
    from gdd.watch import watch as show

    show(results, once=once, interval=interval)
