"""What the workflow's rules ask of the configuration: the files of a target, the parameters of a file.

Paths are relative to the project's root. Methods that take `wildcards` take whatever has the named parts of
an output's path as attributes, as Snakemake's wildcards do.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from typing import Any

from gdd.config.pretrained import BACKBONES, EXTRACTORS
from gdd.config.recipe import TEACHER_ENCODER, Recipe
from gdd.config.records import Setting
from gdd.errors import UserError
from gdd.experiments import Experiments, TableRow
from gdd.provisions import raw_source, require_provisions, resource

FIGURE_ENDINGS = ("png", "pdf")
TABLE_ENDINGS = ("csv", "md", "tex", "json")
CHOICE_ENDINGS = ("yaml", "md")


class Targets:
    """Answers for one configuration."""

    def __init__(self, experiments: Experiments) -> None:
        self.experiments = experiments
        self.config = experiments.config

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

    # What comes from outside

    def require_provisions(self, jobs: Iterable[Any]) -> None:
        """Refuse to start jobs whose files or data can come from nowhere.

        Raises:
            UserError: the complete list of what to put where.
        """
        wanted: dict[str, set[str]] = {"fetch": set(), "dataset": set()}
        for job in jobs:
            if job.rule.name in wanted:
                wanted[job.rule.name].add(job.wildcards[0])
        require_provisions(self.config, wanted["fetch"], wanted["dataset"])

    def source_record(self, wildcards: Any) -> str:
        """Return where a file comes from and what it has to be, as JSON; its use may be reworded."""
        source = self.config.sources[wildcards.name]
        return source.model_copy(update={"use": ""}).canonical()

    def dataset_fetched(self, wildcards: Any) -> list[str]:
        """Return the note of the file a data set is made from, if it is fetched."""
        name = raw_source(self.config, wildcards.dataset)
        return [fetched(name)] if name else []

    def statistics_fetched(self, wildcards: Any) -> str:
        """Return the note of a data set's published statistics."""
        return fetched(self._statistics(wildcards.dataset))

    def statistics(self, wildcards: Any) -> str:
        """Return the file of a data set's published statistics."""
        return resource(self.config, self._statistics(wildcards.dataset))

    def _statistics(self, dataset: str) -> str:
        name = self.config.datasets[dataset].statistics
        if name is None:
            raise UserError(f"The data set '{dataset}' names no published 'statistics'.")
        return name

    # Data sets, feature networks, teachers

    def dataset_record(self, wildcards: Any) -> str:
        """Return as JSON the part of a data set's record that decides its images."""
        record = self.config.datasets[wildcards.dataset]
        return record.model_copy(update={"raw": None, "statistics": None}).canonical()

    def dataset_threads(self, wildcards: Any) -> int:
        """Return how many processes convert images; Snakemake allots no more than it has."""
        return 8 if self.config.datasets[wildcards.dataset].source == "folder" else 1

    def features_record(self, wildcards: Any) -> str:
        """Return a feature network's record as JSON, its title aside, which must not cost a training."""
        return self.config.features[wildcards.name].model_copy(update={"title": ""}).canonical()

    def features_data(self, wildcards: Any) -> str:
        """Return the data set a feature network is trained on."""
        return dataset_file(self.config.features[wildcards.name].dataset)

    def teacher_record(self, wildcards: Any) -> str:
        """Return a teacher's record as JSON."""
        return self.config.teachers[wildcards.teacher].canonical()

    def published_teachers(self) -> str:
        """Return a pattern of the names of the teachers that others published."""
        return alternatives(name for name, of in self.config.teachers.items() if of.published)

    def trained_teachers(self) -> str:
        """Return a pattern of the names of the teachers that are trained here."""
        return alternatives(name for name, of in self.config.teachers.items() if of.training)

    def teacher_fetched(self, wildcards: Any) -> str:
        """Return the note of a published teacher's file."""
        return fetched(self._published(wildcards.teacher))

    def teacher_source(self, wildcards: Any) -> str:
        """Return a published teacher's file."""
        return resource(self.config, self._published(wildcards.teacher))

    def teacher_licence(self, wildcards: Any) -> str:
        """Return the licence of a published teacher."""
        licence: str = self.config.sources[self._published(wildcards.teacher)].licence
        return licence

    def _published(self, teacher: str) -> str:
        return self.config.teachers[teacher].published or ""

    def teacher_data(self, wildcards: Any) -> str:
        """Return the data set a teacher is trained on."""
        return dataset_file(self.config.teachers[wildcards.teacher].dataset)

    # Runs

    def recipe(self, wildcards: Any) -> Recipe:
        """Return the recipe of a run."""
        return self.experiments.find(wildcards.setting, wildcards.run)

    def recipe_json(self, wildcards: Any) -> str:
        """Return the recipe of a run as JSON."""
        return self.recipe(wildcards).canonical()

    def run_teacher(self, wildcards: Any) -> str:
        """Return the weights a run starts from."""
        return f"results/teachers/{self.recipe(wildcards).teacher}/model.safetensors"

    def run_teacher_identity(self, wildcards: Any) -> str:
        """Return the small file that changes only when the teacher's weights do."""
        return f"results/teachers/{self.recipe(wildcards).teacher}/model.json"

    def run_data(self, wildcards: Any) -> str:
        """Return the data set a run trains on."""
        return dataset_file(self.recipe(wildcards).dataset)

    def run_backbones(self, wildcards: Any) -> list[str]:
        """Return the feature networks that a run's discriminator looks through."""
        return [self._network(name) for name in self._backbones(wildcards)]

    def backbone_options(self, wildcards: Any) -> list[str]:
        """Return the options that tell where those networks' weights lie."""
        return [f"--backbone {name}={self._weights(name)}" for name in self._backbones(wildcards)]

    def _backbones(self, wildcards: Any) -> list[str]:
        recipe = self.recipe(wildcards)
        names = recipe.backbones if recipe.objective.distributional else ()
        return [name for name in names if name != TEACHER_ENCODER]

    def _network(self, name: str) -> str:
        """Return what is watched of a feature network: a fetched one's note, a small one's weights."""
        source = (BACKBONES | EXTRACTORS).get(name)
        return fetched(source) if source else f"results/features/{name}.safetensors"

    def _weights(self, name: str) -> str:
        source = (BACKBONES | EXTRACTORS).get(name)
        return resource(self.config, source) if source else f"results/features/{name}.safetensors"

    def run_pairs(self, wildcards: Any) -> list[str]:
        """Return the solved pairs that a run imitates, if it does."""
        recipe = self.recipe(wildcards)
        if recipe.objective.instance != "direct" or recipe.objective.pairs == 0:
            return []
        steps, count = recipe.teacher_sampler.steps, recipe.objective.pairs
        return [f"results/pairs/{recipe.teacher}/steps{steps}-{count}.safetensors"]

    # Evaluation

    def setting(self, wildcards: Any) -> Setting:
        """Return the setting of a file."""
        return self.config.settings[wildcards.setting]

    def evaluation(self, wildcards: Any) -> str:
        """Return how a setting is judged, as JSON."""
        return self.setting(wildcards).evaluation.canonical()

    def reference_data(self, wildcards: Any) -> str:
        """Return the data set that a setting's generators are compared with."""
        return dataset_file(self.reference_dataset(wildcards))

    def reference_dataset(self, wildcards: Any) -> str:
        """Return the name of that data set: the setting's own unless its evaluation names another."""
        setting = self.setting(wildcards)
        return setting.evaluation.dataset or setting.dataset

    def judge(self, wildcards: Any) -> str:
        """Return what is watched of the network that judges a setting."""
        return self._network(self.setting(wildcards).evaluation.extractor)

    def judge_weights(self, wildcards: Any) -> str:
        """Return the weights of the network that judges a setting."""
        return self._weights(self.setting(wildcards).evaluation.extractor)

    def reference_judge(self, wildcards: Any) -> str:
        """Return what is watched of the network whose features a reference holds."""
        return self._network(wildcards.name)

    def reference_weights(self, wildcards: Any) -> str:
        """Return the weights of the network whose features a reference holds."""
        return self._weights(wildcards.name)

    def judge_reference(self, wildcards: Any) -> str:
        """Return the judge's features of the setting's data set."""
        extractor = self.setting(wildcards).evaluation.extractor
        return f"results/references/{self.reference_dataset(wildcards)}/{extractor}.npz"

    def pixel_reference(self, wildcards: Any) -> list[str]:
        """Return the pixels of the setting's data set as a reference, if the setting asks for it."""
        asked = self.setting(wildcards).evaluation.pixels
        return [f"results/references/{self.reference_dataset(wildcards)}/pixels.npz"] if asked else []

    def sampler(self, wildcards: Any) -> str:
        """Return the teacher's sampler at the number of steps in a file's name, as JSON."""
        sampler = self.setting(wildcards).teacher_sampler
        return sampler.model_copy(update={"steps": int(wildcards.steps)}).canonical()

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

    def environment(self) -> dict[str, str]:
        """Return the variables that make `gdd` read the configuration that the workflow reads.

        Variables instead of options: where files lie is no reason to make anything again.
        """
        first, *extra = map(str, self.config.roots)
        return {"GDD_CONFIG": first, "GDD_EXTRA": os.pathsep.join(extra)}

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


def figure_kinds(experiments: Experiments, name: str) -> list[str]:
    """Return which figures an ablation has: `curve`, `spread` over several runs, `samples`.

    A grid has too many rows for a picture of each.
    """
    ablation = experiments.config.ablations[name]
    several = any(len(row.runs) > 1 for row in experiments.rows(name))
    asked = {"curve": ablation.curve is not None, "spread": several, "samples": not ablation.grid}
    return [kind for kind, wanted in asked.items() if wanted]


def reference_distances(experiments: Experiments, name: str) -> list[str]:
    """Return how far a table's references lie from published ones, below `results/`, where there are any."""
    config = experiments.config
    files = []
    for setting in (config.settings[of] for of in config.ablations[name].setting_names()):
        dataset = setting.evaluation.dataset or setting.dataset
        if config.datasets[dataset].statistics and setting.evaluation.extractor in EXTRACTORS:
            files.append(f"references/{dataset}/{setting.evaluation.extractor}-published.json")
    return list(dict.fromkeys(files))


def fetched(name: str) -> str:
    """Return the note that a file of sources.yaml was fetched: small, and equal whenever the file is."""
    return f"results/fetched/{name}.json"


def alternatives(names: Iterable[str]) -> str:
    """Return a pattern that matches these names and nothing else."""
    return "|".join(map(re.escape, names)) or "(?!)"


def dataset_file(name: str) -> str:
    """Return the small file that is written last when a data set is prepared and holds its hash."""
    return f"results/datasets/{name}/dataset.json"
