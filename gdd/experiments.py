"""From configuration to runs: which runs a table needs, what each is called, where its files lie.

Pure functions of the configuration; nothing here imports torch, so a workflow loads it in no time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from gdd import paths
from gdd.config.config import Config
from gdd.config.names import BACKBONES, Named
from gdd.config.recipe import Recipe
from gdd.config.record import Record, merged
from gdd.config.tables import Ablation, Method, Row, grid_title
from gdd.errors import UserError, did_you_mean
from gdd.run_ids import name_of


@dataclass(frozen=True)
class Run:
    """One student: a recipe in a setting, trained from one seed."""

    setting: str
    id: str
    seed: int
    recipe: Recipe

    @property
    def folder(self) -> Path:
        return paths.run_folder(self.setting, self.id, self.seed)


@dataclass(frozen=True)
class TableRow:
    """One line of a table: a student over its runs, teachers at some number of steps, or others' work."""

    title: str
    setting: str
    method: str | None
    runs: tuple[Run, ...] = ()  # teacher by teacher, each from every seed
    teachers: tuple[str, ...] = ()  # with `teacher_steps` only
    teacher_steps: int | None = None
    external: str | None = None  # a file of external/
    at: int | Literal["end", "best"] = "end"  # which snapshot of a student
    changes: Mapping[str, Any] = field(default_factory=dict, compare=False)  # the recipe keys it sets

    def metrics(self) -> list[Path]:
        """Return the metrics files that the row is made of."""
        if self.teacher_steps is not None:
            return [paths.teacher_metrics(name, self.setting, self.teacher_steps) for name in self.teachers]
        if self.external is not None:
            return [paths.external_folder(self.setting, self.external) / "metrics.json"]
        return [run.folder / "metrics.json" for run in self.runs]

    def samples(self) -> Path:
        """Return the images from fixed latents that show the row, of its first run or teacher."""
        if self.teacher_steps is not None:
            return paths.teacher_samples(self.teachers[0], self.setting, self.teacher_steps)
        if self.external is not None:
            return paths.external_folder(self.setting, self.external) / "samples.npz"
        return self.runs[0].folder / "samples" / f"{self.runs[0].recipe.images:09d}.npz"


def pictured(rows: Sequence[TableRow]) -> list[TableRow]:
    """Return the rows that a figure shows: of those that show snapshots of the same runs, one."""
    shown: dict[object, TableRow] = {}
    for row in rows:
        key = (row.setting, tuple(run.folder for run in row.runs)) if row.runs else row
        if key not in shown or row.at == "end":
            shown[key] = row
    return list(shown.values())


class Experiments:
    """All runs that a configuration speaks of.

    Raises:
        UserError: a method is no valid recipe in a setting.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        # Before any row, so that what is wrong with a setting is not blamed on a table.
        self.method_recipes: dict[str, dict[str, Recipe]] = {}
        for setting in config.settings:
            recipes = self.method_recipes[setting] = {}
            for method in config.methods:
                where = f"{config.where('settings', setting)} with {config.where('methods', method)}"
                recipes[method] = self.recipe(setting, method, {}, where)

    def recipe(self, setting: str, method: str, changes: Mapping[str, Any], where: str) -> Recipe:
        """Merge setting, method, the method's changes in the setting, and a row's changes.

        Raises:
            UserError: the result is no valid recipe.
        """
        base = self.config.settings[setting]
        data: dict[str, Any] = {
            "dataset": base.dataset,
            "teacher": base.teacher,
            "teacher_sampler": base.teacher_sampler.model_dump(mode="json"),
        }
        parts = [
            _set_keys(base.recipe),
            _set_keys(self.config.methods[method], Method),
            _set_keys(base.methods[method]) if method in base.methods else {},
            changes,
        ]
        for part in parts:
            data = merged(data, part)
        recipe: Recipe = self.config.parse(Recipe, data, where)
        _check_teacher(self.config, recipe, where)
        return recipe

    def rows(self, name: str) -> list[TableRow]:
        """Return the lines of the table `name`, setting by setting.

        Raises:
            UserError: a row is no valid recipe, two rows bear one title, or others published something for
                none of the settings.
        """
        ablation: Ablation = self.config.ablations[name]
        where = self.config.where("ablations", name)
        rows = []
        for setting in ablation.setting_names():
            for title, row in _titled_rows(self.config, ablation, where):
                here = f"{where}, row '{title}'"
                if row.external is None or self._published_for(row.external, setting, ablation, here):
                    rows.append(self._row(title, row, setting, ablation, here))
        names = [(row.setting, row.title) for row in rows]
        for setting, title in names:
            if names.count((setting, title)) > 1:
                raise UserError(f"{where}: two rows bear the name '{title}'; rename one.")
        return rows

    def _published_for(self, name: str, setting: str, ablation: Ablation, where: str) -> bool:
        """Whether others published something for a setting; for one of the table's they must have."""
        published = self.config.external[name].settings
        if not published.keys() & set(ablation.setting_names()):
            raise UserError(
                f"{where}: {self.config.where('external', name)} has a file for {', '.join(published)}, "
                "none of which is a setting of the table."
            )
        return setting in published

    def _row(self, title: str, row: Row, setting: str, ablation: Ablation, where: str) -> TableRow:
        if row.external is not None:
            return TableRow(title, setting, None, external=row.external)
        if row.teacher_steps is not None:
            usual = self.config.settings[setting].teacher_sampler.steps
            steps = usual if row.teacher_steps == "setting" else row.teacher_steps
            own = (row.teacher or self.config.settings[setting].teacher,)
            teachers = own if row.teacher else ablation.teachers or own
            return TableRow(title, setting, None, teachers=teachers, teacher_steps=steps)
        seeds = ablation.seeds if ablation.seeds is not None else self.config.project.seeds
        runs = []
        changes = _set_keys(row, Row)
        if ablation.teachers and "teacher" in changes:
            raise UserError(f"{where}: give 'teacher' here or 'teachers' for the table, not both.")
        for teacher in ablation.teachers or (None,):
            chosen = changes | ({"teacher": teacher} if teacher else {})
            recipe = self.recipe(setting, row.method or "", chosen, where)
            run_id = name_of(recipe, self.method_recipes[setting])
            runs += [Run(setting, run_id, seed, recipe) for seed in seeds]
            self._check_at(row, setting, recipe, where)
        return TableRow(title, setting, row.method, tuple(runs), at=row.at, changes=changes)

    def _check_at(self, row: Row, setting: str, recipe: Recipe, where: str) -> None:
        if not isinstance(row.at, int):
            return
        also_at = self.config.settings[setting].evaluation.also_at
        if row.at not in {*also_at, recipe.images}:
            raise UserError(
                f"{where}: 'at' is {row.at}, but the setting '{setting}' evaluates the snapshots at "
                f"{', '.join(map(str, also_at)) or 'no count'} and the end; add it to 'evaluation.also_at'."
            )
        if row.at not in recipe.snapshots():
            raise UserError(
                f"{where}: 'at' is {row.at}, but the run keeps one every {recipe.snapshot_every} images "
                f"up to {recipe.images}."
            )

    @cached_property
    def tables(self) -> dict[str, list[TableRow]]:
        """The lines of every table."""
        tables = Named("ablations/")
        for name in self.config.ablations:
            tables[name] = self.rows(name)
        return tables

    @cached_property
    def recipes(self) -> dict[tuple[str, str], Recipe]:
        """Every recipe that a table or a plain method has, by setting and run id."""
        recipes = {
            (run.setting, run.id): run.recipe
            for rows in self.tables.values()
            for row in rows
            for run in row.runs
        }
        for setting, methods in self.method_recipes.items():
            recipes |= {(setting, method): recipe for method, recipe in methods.items()}
        return recipes

    def find(self, setting: str, run: str) -> Recipe:
        """Return the recipe of a run id.

        Raises:
            UserError: there is no such setting, or no table and no method has such a run in it.
        """
        self.config.settings[setting]  # refuses a setting that is not there
        if (setting, run) not in self.recipes:
            runs = [run for place, run in self.recipes if place == setting]
            raise UserError(
                f"No table and no method has a run '{run}' in the setting '{setting}'; "
                f"{did_you_mean(run, runs)}there are: {', '.join(runs)}."
            )
        return self.recipes[setting, run]


def _check_teacher(config: Config, recipe: Recipe, where: str) -> None:
    """Refuse a teacher or a backbone that does not fit the data set: its images, or its classes."""
    dataset, arch = config.datasets[recipe.dataset], config.teachers[recipe.teacher].architecture
    if (arch.img_channels, arch.img_resolution) != (dataset.channels, dataset.resolution):
        raise UserError(
            f"{where}: the teacher '{recipe.teacher}' makes {arch.img_channels}-channel images of "
            f"{arch.img_resolution} pixels, the data set '{recipe.dataset}' holds {dataset.channels}-channel "
            f"images of {dataset.resolution}; choose a teacher of this data set."
        )
    if arch.label_dim not in (0, dataset.classes):
        raise UserError(
            f"{where}: the teacher '{recipe.teacher}' knows {arch.label_dim} classes, the data set "
            f"'{recipe.dataset}' has {dataset.classes}; choose a teacher of this data set."
        )
    for name in recipe.backbones if recipe.objective.distributional else ():
        own = config.features.get(name)
        published = 3 if name in BACKBONES else dataset.channels
        takes = config.datasets[own.dataset].channels if own else published
        if takes != dataset.channels:
            raise UserError(
                f"{where}: the backbone '{name}' takes images of {takes} channels, the data set "
                f"'{recipe.dataset}' holds images of {dataset.channels}; choose backbones that fit it."
            )


def _set_keys(record: Any, own: type[Record] | None = None) -> dict[str, Any]:
    """Return the keys of a partial recipe that were written down, as plain data."""
    data: dict[str, Any] = record.model_dump(mode="json", exclude_unset=True)
    for key in own.__annotations__ if own else ():
        data.pop(key, None)
    return data


def _titled_rows(config: Config, ablation: Ablation, where: str) -> Iterator[tuple[str, Row]]:
    if ablation.rows:
        yield from ablation.rows.items()
        return
    for values in itertools.product(*ablation.grid.values()):
        row: dict[str, Any] = {}
        for key, value in zip(ablation.grid, values, strict=True):
            for part in reversed(key.split(".")):
                value = {part: value}  # noqa: PLW2901
            row = merged(row, value)
        title = grid_title(values)
        yield title, config.parse(Row, row, f"{where}, grid '{title}'")
