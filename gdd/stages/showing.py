"""The stages that show: tables, figures, pages; and which files a target consists of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gdd import paths
from gdd.config.records import Setting
from gdd.errors import UserError, did_you_mean
from gdd.experiments import Experiments, TableRow
from gdd.stages.inputs import reference_dataset
from gdd.stages.stage import Stage, plain, shown

FIGURES = ("curve", "spread", "samples")


def table(of: Experiments, table: str) -> Stage:
    rows = of.tables[table]
    methods = {row.method for row in rows if row.method}
    decides = {
        "ablation": plain(of.config.ablations[table]),
        "settings": {row.setting: _shown_of(of.config.settings[row.setting]) for row in rows},
        "methods": {name: plain(of.config.methods[name]) for name in methods},
    }
    return Stage(f"the table {table}", decides, shown(_measured(rows)))


def figure(of: Experiments, table: str, kind: str) -> Stage:
    of_table = _table(of, table)
    if kind != "samples":
        return of_table
    return Stage(
        f"the samples of {table}", of_table.decided_by, shown(_samples(row) for row in of.tables[table])
    )


_table = table  # the name is a parameter of what follows


def page(of: Experiments, page: str) -> Stage:
    """The page of a target of config.yaml, or of an ablation."""
    name = page_target(of, page)
    files: list[str] = []
    for table in page_tables(of, name):
        files += [*ablation_files(of, table), *map(str, reference_distances(of, table))]
        files += _measured(of.tables[table])
    target = of.config.project.targets.get(name)
    return Stage(f"the page {page}", plain(target or of.config.ablations[name]), shown(files))


# --- targets --------------------------------------------------------------------------------------------


def ablation_files(of: Experiments, name: str) -> list[str]:
    """Return an ablation's table and figures, and what it chooses."""
    files = paths.table_files(name)
    for kind in figure_kinds(of, name):
        files += paths.figure_files(name, kind)
    if of.config.ablations[name].choose:
        files += paths.choice_files(name)
    return [str(file) for file in files]


def figure_kinds(of: Experiments, name: str) -> list[str]:
    """Return which figures an ablation has: `spread` over several runs, and no samples of a grid."""
    ablation = of.config.ablations[name]
    several = any(len(row.runs) > 1 for row in of.tables[name])
    has = {"curve": ablation.curve is not None, "spread": several, "samples": not ablation.grid}
    return [kind for kind in FIGURES if has[kind]]


def page_of(of: Experiments, target: str) -> Path:
    """Return the page of a target of config.yaml, or of an ablation."""
    targets = of.config.project.targets
    return paths.SITE / f"{targets[target].page if target in targets else target}.html"


def page_target(of: Experiments, page: str) -> str:
    """Return the target or ablation whose page is called so, by the page's name or its own."""
    targets = of.config.project.targets
    pages = {target.page: name for name, target in targets.items()}
    pages |= {name: name for name in (*of.config.ablations, *targets)}
    if page not in pages:
        there = f"{did_you_mean(page, pages)}there are: {', '.join(pages)}"
        raise UserError(f"There is no page '{page}'; {there}.")
    return pages[page]


def page_tables(of: Experiments, target: str) -> tuple[str, ...]:
    targets = of.config.project.targets
    return targets[target].tables if target in targets else (target,)


def reference_distances(of: Experiments, table: str) -> list[Path]:
    """Return how far the references of a table lie from published ones, where there are any."""
    files = []
    for name in of.config.ablations[table].setting_names():
        dataset = reference_dataset(of.config, name)
        extractor = of.config.settings[name].evaluation.extractor
        if of.config.datasets[dataset].statistics and extractor == "inception":
            files.append(paths.distance_file(dataset, extractor))
    return list(dict.fromkeys(files))


def _shown_of(setting: Setting) -> tuple[str, tuple[str, ...]]:
    return setting.title, setting.notes


def _measured(rows: Iterable[TableRow]) -> list[str]:
    files: list[Path] = []
    for row in rows:
        files += [*row.metrics(), *(run.folder / "run.json" for run in row.runs)]
    return [str(file) for file in files]


def _samples(row: TableRow) -> str:
    # Of a run the folder is declared, whose files nobody can name before the run has ended.
    return str(row.samples().parent if row.runs else row.samples())
