"""Commands that turn metrics into tables, figures and pages."""

from __future__ import annotations

from pathlib import Path

import click

from gdd.commands.options import FILE, configured, load_experiments, say


@click.command()
@click.argument("name")
@configured
def table(name: str, folder: Path, extra: tuple[Path, ...], results: Path) -> None:
    """Make the table of the ablation NAME as CSV, Markdown, LaTeX and JSON."""
    from gdd.report.table import build_table
    from gdd.report.table_files import write_table

    write_table(build_table(load_experiments(folder, extra), name, results), results / "tables")


@click.command()
@click.argument("kind", type=click.Choice(["curve", "spread", "samples"]))
@click.argument("name")
@configured
def figure(kind: str, name: str, folder: Path, extra: tuple[Path, ...], results: Path) -> None:
    """Draw a figure of the ablation NAME as PNG and PDF: its curve, all its runs, or images of each row."""
    from gdd.report.curves import plot_curve
    from gdd.report.samples import plot_samples
    from gdd.report.spread import plot_spread

    plot = {"curve": plot_curve, "spread": plot_spread, "samples": plot_samples}[kind]
    plot(load_experiments(folder, extra), name, results, results / "figures" / f"{name}-{kind}")


@click.command()
@click.argument("name")
@configured
def choose(name: str, folder: Path, extra: tuple[Path, ...], results: Path) -> None:
    """Write what the ablation NAME chooses per method, as YAML for a setting and as Markdown."""
    from gdd.report.choice import write_choice

    for path in write_choice(load_experiments(folder, extra), name, results):
        say(str(path))


@click.command()
@click.argument("target")
@click.argument("out", type=FILE)
@configured
def page(target: str, out: Path, folder: Path, extra: tuple[Path, ...], results: Path) -> None:
    """Write the self-contained page of a TARGET of config.yaml to OUT (html)."""
    from gdd.report.site import write_site

    write_site(load_experiments(folder, extra), target, results, out)
