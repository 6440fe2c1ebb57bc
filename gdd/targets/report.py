"""What a person asks for, and what the rules ask about tables, figures and pages."""

from __future__ import annotations

import json
from typing import Any

from gdd.config.load import Config
from gdd.errors import UserError
from gdd.experiments import Experiments, TableRow, external_folder
from gdd.targets.paths import (
    CHOICE_ENDINGS,
    FIGURE_ENDINGS,
    TABLE_ENDINGS,
    alternatives,
    figure_kinds,
    reference_distances,
)


class ReportTargets:
    """Answers about what is shown in the end."""

    experiments: Experiments
    config: Config

    # What a person asks for

    def ablations(self) -> list[str]:
        """Return the name of every ablation, each of which is a target."""
        return list(self.config.ablations)

    def pages(self) -> list[str]:
        """Return the name of every target in config.yaml."""
        return list(self.config.project.targets)

    def of_ablation(self, name: str) -> list[str]:
        """Return what the target of an ablation makes: table, figures, choice, and a page of their own."""
        return [*self.made_from_metrics(name), f"results/site/{name}.html"]

    def made_from_metrics(self, name: str) -> list[str]:
        """Return an ablation's table and figures, and what it chooses."""
        return [*self.table_files(name), *self.figure_files(name), *self.choice_files(name)]

    def page(self, target: str) -> str:
        """Return the page of a target of config.yaml."""
        return f"results/site/{self.config.project.targets[target].page}.html"

    def all_tables(self) -> list[str]:
        """Return the tables of all targets of config.yaml in every format."""
        return [file for name in self._shown() for file in self.table_files(name)]

    def all_figures(self) -> list[str]:
        """Return the figures of all targets of config.yaml in every format."""
        return [file for name in self._shown() for file in self.figure_files(name)]

    def _shown(self) -> list[str]:
        targets = self.config.project.targets.values()
        return list(dict.fromkeys(name for target in targets for name in target.tables))

    def table_files(self, name: str) -> list[str]:
        """Return an ablation's table in every format."""
        return [f"results/tables/{name}.{ending}" for ending in TABLE_ENDINGS]

    def figure_files(self, name: str) -> list[str]:
        """Return an ablation's figures in every format."""
        kinds = figure_kinds(self.experiments, name)
        return [f"results/figures/{name}-{kind}.{ending}" for kind in kinds for ending in FIGURE_ENDINGS]

    def choice_files(self, name: str) -> list[str]:
        """Return what an ablation with `choose` chooses, for a setting's file and for reading."""
        endings = CHOICE_ENDINGS if self.config.ablations[name].choose else ()
        return [f"results/tables/{name}-choice.{ending}" for ending in endings]

    def table_names(self) -> str:
        """Return a pattern of the names of all tables, which no other file beside them matches."""
        return alternatives(self.config.ablations)

    # Tables, figures, pages

    def rows(self, name: str) -> list[TableRow]:
        """Return the lines of an ablation's table."""
        return self.experiments.tables[name]

    def table_inputs(self, wildcards: Any) -> list[str]:
        """Return the small files a table is made of."""
        files = []
        for row in self.rows(wildcards.table):
            files += [f"results/{path}" for path in row.metrics()]
            files += [f"results/{run.folder}/run.json" for run in row.runs]
        return list(dict.fromkeys(files))

    def sample_inputs(self, wildcards: Any) -> list[str]:
        """Return the images that a grid of samples shows."""
        files = []
        for row in self.rows(wildcards.table):
            if row.teacher_steps is not None:
                # One teacher is shown, as one run is of a student.
                files.append(
                    f"results/teachers/{row.teachers[0]}/samples/{row.setting}-steps{row.teacher_steps}.npz"
                )
            elif row.external is not None:
                files.append(f"results/{external_folder(row.external, row.setting)}/samples.npz")
            elif row.runs:
                files.append(f"results/{row.runs[0].folder}/samples")
        return list(dict.fromkeys(files))

    def table_params(self, wildcards: Any) -> str:
        """Return all of the configuration that a table or figure shows, as JSON."""
        name = wildcards.table
        methods = {row.method for row in self.rows(name) if row.method}
        shown = {
            "ablation": json.loads(self.config.ablations[name].canonical()),
            "settings": {row.setting: self.config.settings[row.setting].title for row in self.rows(name)},
            "methods": {method: self.config.methods[method].canonical() for method in sorted(methods)},
        }
        return json.dumps(shown, sort_keys=True)

    def page_params(self, wildcards: Any) -> str:
        """Return the part of config.yaml that a page shows, as JSON."""
        target = self.config.project.targets.get(self.page_target(wildcards))
        return target.canonical() if target else self.config.ablations[wildcards.page].canonical()

    def page_target(self, wildcards: Any) -> str:
        """Return the target that a page belongs to."""
        pages = {target.page: name for name, target in self.config.project.targets.items()}
        pages |= {name: name for name in self.config.ablations}
        if wildcards.page not in pages:
            raise UserError(f"No target has a page '{wildcards.page}'; there are: {', '.join(pages)}.")
        return pages[wildcards.page]

    def page_tables(self, wildcards: Any) -> tuple[str, ...]:
        """Return the tables on a page: a target's, or the one ablation that the page is named after."""
        target = self.config.project.targets.get(self.page_target(wildcards))
        return target.tables if target else (wildcards.page,)

    def page_inputs(self, wildcards: Any) -> list[str]:
        """Return the tables and figures a page shows, and the runs it tells of."""
        files = []
        for name in self.page_tables(wildcards):
            files += self.made_from_metrics(name)
            files += [f"results/{path}" for path in reference_distances(self.experiments, name)]
            for row in self.rows(name):
                files += [f"results/{path}" for path in row.metrics()]
                files += [f"results/{run.folder}/run.json" for run in row.runs]
        return list(dict.fromkeys(files))
