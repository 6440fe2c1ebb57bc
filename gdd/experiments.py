"""From configuration to runs: which runs a table needs, what each is called, where its files lie.

Pure functions of the configuration; nothing here imports torch, so a workflow loads it in no time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any, Literal

from gdd.config.check import known
from gdd.config.load import Config, Named
from gdd.config.pretrained import BACKBONES
from gdd.config.recipe import TEACHER_ENCODER, Recipe
from gdd.config.record import Record, parse
from gdd.config.records import Ablation, Method, Row
from gdd.errors import UserError

LONGEST_ID = 150  # characters; file systems allow 255 for a name


@dataclass(frozen=True)
class Run:
    """One student: a recipe in a setting, trained from one seed."""

    setting: str
    id: str
    seed: int
    recipe: Recipe

    @property
    def folder(self) -> str:
        """The run's folder below `results/`."""
        return f"runs/{self.setting}/{self.id}/seed{self.seed}"

    @property
    def key(self) -> tuple[str, str]:
        """What names the recipe: the setting and the id."""
        return self.setting, self.id


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

    def metrics(self) -> list[str]:
        """Return the metrics files the row is made of, below `results/`."""
        if self.teacher_steps is not None:
            return [teacher_metrics(teacher, self.setting, self.teacher_steps) for teacher in self.teachers]
        if self.external is not None:
            return [f"{external_folder(self.external, self.setting)}/metrics.json"]
        return [f"{run.folder}/metrics.json" for run in self.runs]


def pictured(rows: Sequence[TableRow]) -> list[TableRow]:
    """Return the rows that a figure shows: of those that show snapshots of the same runs, one."""
    shown: dict[object, TableRow] = {}
    for row in rows:
        key = (row.setting, tuple(run.folder for run in row.runs)) if row.runs else row
        if key not in shown or row.at == "end":
            shown[key] = row
    return list(shown.values())


def teacher_metrics(teacher: str, setting: str, steps: int) -> str:
    """Return where the metrics of a teacher sampled with `steps` steps lie, below `results/`."""
    return f"teachers/{teacher}/metrics/{setting}-steps{steps}.json"


def external_folder(external: str, setting: str) -> str:
    """Return where what others published lies and how it is judged, below `results/`."""
    return f"external/{setting}/{external}"


class Experiments:
    """All runs that a configuration speaks of.

    Raises:
        UserError: a method is no valid recipe in a setting.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        # Before any row, so that what is wrong with a setting is not blamed on a table.
        self._method_recipes = self._plain_recipes()

    def recipe(self, setting: str, method: str, changes: Mapping[str, Any], where: str) -> Recipe:
        """Merge setting, method, the method's changes in the setting, and a row's changes.

        Raises:
            UserError: the method is unknown or the result is no valid recipe.
        """
        base = self.config.settings[setting]
        data: dict[str, Any] = {
            "dataset": base.dataset,
            "teacher": base.teacher,
            "teacher_sampler": base.teacher_sampler.model_dump(mode="json"),
        }
        parts = [
            _set_keys(base.recipe),
            _set_keys(known(self.config, "methods", method, where, "method"), Method),
            _set_keys(base.methods[method]) if method in base.methods else {},
            changes,
        ]
        for part in parts:
            data = _merge(data, part)
        recipe = parse(Recipe, data, where)
        known(self.config, "datasets", recipe.dataset, where, "dataset")
        known(self.config, "teachers", recipe.teacher, where, "teacher")
        for backbone in recipe.backbones:
            also = (TEACHER_ENCODER, *BACKBONES)
            known(self.config, "features", backbone, where, "backbones", also=also)
        _check_teacher(self.config, recipe, where)
        return recipe

    def run_id(self, setting: str, recipe: Recipe) -> str:
        """Name a recipe by the nearest method and what differs from it.

        Depends on the recipe alone, not on who asks, so that two tables share the run.
        """
        candidates = []
        for name, base in self._method_recipes[setting].items():
            changed = _differences(base, recipe)
            candidates.append((len(changed), name, changed))
        _, name, changed = min(candidates)
        run_id = ".".join([name, *(_tag(key, value) for key, value in changed)])
        return run_id if len(run_id) <= LONGEST_ID else f"{run_id[:LONGEST_ID]}-{_digest(run_id)}"

    def rows(self, name: str) -> list[TableRow]:
        """Return the lines of the table `name`, setting by setting.

        Raises:
            UserError: a row is no valid recipe, two rows bear one title, `choose` stands with several
                settings, or others published something for none of the settings.
        """
        ablation: Ablation = self.config.ablations[name]
        where = self.config.where("ablations", name)
        if ablation.choose and len(ablation.setting_names()) > 1:
            raise UserError(
                f"{where}: 'choose' chooses for one setting; write a file for each of 'settings'."
            )
        rows = []
        for setting in ablation.setting_names():
            for title, row in _titled_rows(ablation, where):
                if row.external is None or self._published_for(title, row, setting, ablation, where):
                    rows.append(self._row(title, row, setting, ablation, where))
        names = [(row.setting, row.title) for row in rows]
        for setting, title in names:
            if names.count((setting, title)) > 1:
                raise UserError(f"{where}: two rows bear the name '{title}'; rename one.")
        return rows

    def _published_for(self, title: str, row: Row, setting: str, ablation: Ablation, where: str) -> bool:
        """Whether others published something for a setting; for one of the table's they must have."""
        external = known(self.config, "external", row.external or "", f"{where}, row '{title}'", "external")
        if not external.settings.keys() & set(ablation.setting_names()):
            raise UserError(
                f"{where}, row '{title}': {self.config.where('external', row.external or '')} has a file for "
                f"{', '.join(external.settings)}, none of which is a setting of the table."
            )
        return setting in external.settings

    def _row(self, title: str, row: Row, setting: str, ablation: Ablation, where: str) -> TableRow:
        if row.external is not None:
            return TableRow(title, setting, None, external=row.external)
        if row.teacher_steps is not None:
            usual = self.config.settings[setting].teacher_sampler.steps
            steps = usual if row.teacher_steps == "setting" else row.teacher_steps
            own = (row.teacher or self.config.settings[setting].teacher,)
            teachers = own if row.teacher else ablation.teachers or own
            for teacher in teachers:
                known(self.config, "teachers", teacher, f"{where}, row '{title}'", "teacher")
            return TableRow(title, setting, None, teachers=teachers, teacher_steps=steps)
        seeds = ablation.seeds if ablation.seeds is not None else self.config.project.seeds
        runs = []
        changes = _set_keys(row, Row)
        if ablation.teachers and "teacher" in changes:
            raise UserError(
                f"{where}, row '{title}': give 'teacher' here or 'teachers' for the table, not both."
            )
        for teacher in ablation.teachers or (None,):
            chosen = changes | ({"teacher": teacher} if teacher else {})
            recipe = self.recipe(setting, row.method or "", chosen, f"{where}, row '{title}'")
            run_id = self.run_id(setting, recipe)
            runs += [Run(setting, run_id, seed, recipe) for seed in seeds]
            self._check_at(row, setting, recipe, f"{where}, row '{title}'")
        return TableRow(title, setting, row.method, tuple(runs), at=row.at, changes=changes)

    def _check_at(self, row: Row, setting: str, recipe: Recipe, where: str) -> None:
        if not isinstance(row.at, int):
            return
        judged = self.config.settings[setting].evaluation.also_at
        if row.at not in {*judged, recipe.images}:
            raise UserError(
                f"{where}: 'at' is {row.at}, but the setting '{setting}' judges the snapshots at "
                f"{', '.join(map(str, judged)) or 'no count'} and the end; add it to 'evaluation.also_at'."
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
        recipes = {run.key: run.recipe for rows in self.tables.values() for row in rows for run in row.runs}
        for setting in self.config.settings:
            for method, recipe in self._method_recipes[setting].items():
                recipes[setting, method] = recipe
        return recipes

    def find(self, setting: str, run: str) -> Recipe:
        """Return the recipe of a run id.

        Raises:
            UserError: no table and no method has such a run.
        """
        if (setting, run) not in self.recipes:
            runs = [run for place, run in self.recipes if place == setting]
            raise UserError(
                f"No table and no method has a run '{run}' in the setting '{setting}'; "
                f"there are: {', '.join(runs)}."
            )
        return self.recipes[setting, run]

    def _plain_recipes(self) -> dict[str, dict[str, Recipe]]:
        recipes: dict[str, dict[str, Recipe]] = {}
        for setting in self.config.settings:
            recipes[setting] = {}
            for method in self.config.methods:
                where = " with ".join(
                    [self.config.where("settings", setting), self.config.where("methods", method)]
                )
                recipes[setting][method] = self.recipe(setting, method, {}, where)
        return recipes


def _check_teacher(config: Config, recipe: Recipe, where: str) -> None:
    """Refuse a teacher whose images are of another size than the data set's, or of more classes."""
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


def _set_keys(record: Any, own: type[Record] | None = None) -> dict[str, Any]:
    """Return the keys of a partial recipe that were written down, as plain data."""
    data: dict[str, Any] = record.model_dump(mode="json", exclude_unset=True)
    for key in own.__annotations__ if own else ():
        data.pop(key, None)
    return data


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `change` laid over it, mapping by mapping."""
    merged = dict(base)
    for key, value in change.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _titled_rows(ablation: Ablation, where: str) -> Iterator[tuple[str, Row]]:
    if ablation.rows:
        yield from ablation.rows.items()
        return
    for values in itertools.product(*ablation.grid.values()):
        row: dict[str, Any] = {}
        for key, value in zip(ablation.grid, values, strict=True):
            for part in reversed(key.split(".")):
                value = {part: value}  # noqa: PLW2901
            row = _merge(row, value)
        title = ", ".join(str(value) for value in values)
        yield title, parse(Row, row, f"{where}, grid '{title}'")


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _differences(base: Recipe, recipe: Recipe) -> list[tuple[str, Any]]:
    before, after = (dict(_leaves(part.model_dump(mode="json"))) for part in (base, recipe))
    for key in sorted(before.keys() ^ after.keys()):  # one of them leaves out a key that has its default
        before.setdefault(key, attrgetter(key)(base))
        after.setdefault(key, attrgetter(key)(recipe))
    return [(key, value) for key, value in after.items() if before[key] != value]


def _tag(key: str, value: Any) -> str:
    """Write one difference as part of a folder's name, so that no other difference reads the same."""
    if isinstance(value, list):
        text = "+".join(map(str, value))
        # A list could read like the name of a freeze policy, or two entries of it like one.
        exact = key != "freeze" and all(re.fullmatch(r"[A-Za-z0-9_-]+", entry) for entry in value)
    else:
        text = json.dumps(value).strip('"')
        exact = not isinstance(value, str) or re.fullmatch(r"[A-Za-z0-9_+-]+", value) is not None
    if exact and len(text) <= 60:
        return f"{key}-{text}"
    return f"{key}-{re.sub(r'[^A-Za-z0-9+_-]', '_', text)[:40]}-{_digest(json.dumps(value))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
