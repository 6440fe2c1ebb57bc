"""Commands that turn metrics into tables, figures and pages."""

from __future__ import annotations

import click

from gdd.commands.options import EXPECT, Here, pass_here, say
from gdd.stages import showing


@click.command()
@click.argument("name")
@EXPECT
@pass_here
def table(here: Here, name: str, expect: str | None) -> None:
    """Make the table of the ablation NAME as CSV, Markdown, LaTeX and JSON."""
    from gdd.report.table import build_table
    from gdd.report.table_files import write_table

    here.stage("table", expect, table=name)
    write_table(build_table(here.experiments, name))


@click.command()
@click.argument("kind", type=click.Choice(showing.FIGURES))
@click.argument("name")
@EXPECT
@pass_here
def figure(here: Here, kind: str, name: str, expect: str | None) -> None:
    """Draw a figure of the ablation NAME as PNG and PDF: its curve, all its runs, or images of each row."""
    from gdd.report.charts import plot_curve, plot_spread
    from gdd.report.figures import plot_samples

    here.stage("figure", expect, table=name, kind=kind)
    plot = {"curve": plot_curve, "spread": plot_spread, "samples": plot_samples}[kind]
    plot(here.experiments, name)


@click.command()
@click.argument("name")
@EXPECT
@pass_here
def choose(here: Here, name: str, expect: str | None) -> None:
    """Write what the ablation NAME chooses per method, as YAML for a setting and as Markdown."""
    from gdd.report.choice import write_choice

    here.stage("table", expect, table=name)
    for path in write_choice(here.experiments, name):
        say(str(path))


@click.command()
@click.argument("name")
@EXPECT
@pass_here
def page(here: Here, name: str, expect: str | None) -> None:
    """Write the self-contained page NAME, which is that of a target of config.yaml or of an ablation."""
    from gdd.report.site import write_site

    here.stage("page", expect, page=name)
    write_site(here.experiments, showing.page_target(here.experiments, name))
