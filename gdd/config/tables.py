"""Methods, tables and targets as written in YAML, and what others report."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gdd.config.metrics import ColumnName, columns
from gdd.config.names import AblationName, ExternalName, MethodName, Name, SettingName, TeacherName
from gdd.config.recipe import PartialRecipe
from gdd.config.record import Count, Distinct, NotNegative, Positive, Record

Seeds = Annotated[tuple[NotNegative, ...], Field(min_length=1), Distinct]
Titles = Annotated[  # one, or a list
    tuple[str, ...],
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else value,
        json_schema_input_type=str | tuple[str, ...],
    ),
    Field(min_length=1),
    Distinct,
]


class Method(PartialRecipe):  # type: ignore[misc]
    """What makes a method: its look in tables and figures, and the part of the recipe it decides."""

    title: str
    colour: Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]
    marker: Literal["o", "s", "D", "^", "v", "P", "X", "*"] = "o"


class Row(PartialRecipe):  # type: ignore[misc]
    """A table's row: a method and the recipe keys it changes, the teacher itself, or what others published.

    The last stands only in those of the table's settings for which there is a file of it.
    """

    method: MethodName | None = None
    teacher_steps: Count | Literal["setting"] | None = None  # setting: those of its `teacher_sampler`
    external: ExternalName | None = None
    # Which snapshot the row shows; an image count is one of the setting's `evaluation.also_at`, or the end.
    at: Count | Literal["end", "best"] = "end"

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        self.require_one_of("method", "teacher_steps", "external")
        for key, beside in (("external", set()), ("teacher_steps", {"teacher"})):
            ignored = self.model_fields_set - {key, *beside}
            if self.changes(key) and ignored:
                raise ValueError(f"a row with '{key}' trains nothing: leave out '{min(ignored)}'")
        return self


class Reported(Record):
    """Numbers that others report, and where."""

    setting: SettingName
    method: MethodName | None = None  # with the lowest FID of a run: what the papers give
    teacher_steps: Count | None = None
    external: ExternalName | None = None
    work: str | None = None  # of others, which no row shows; stands in the note of tables with `reported_fid`
    fid: Positive
    recall: Positive | None = None
    clip_fid: Positive | None = None
    source: str

    @model_validator(mode="after")
    def _is_of_one_thing(self) -> Self:
        self.require_one_of("method", "teacher_steps", "external", "work")
        return self


class ReportedNumbers(Record):
    """`reported.yaml`: what to print beside our own numbers."""

    reported: tuple[Reported, ...]


class Claim(Record):
    """What a table is meant to show: each row of `better` is better than each of `than` in a column.

    Whether it holds is decided from the runs and shown with the table.
    """

    better: Titles
    than: Titles
    column: ColumnName = Field(alias="in")

    @model_validator(mode="after")
    def _can_be_decided(self) -> Self:
        known = columns()
        if known[self.column].better is None or not known[self.column].spread:
            possible = ", ".join(name for name, of in known.items() if of.better and of.spread)
            raise ValueError(f"no claim can be made in the column '{self.column}'; choose one of: {possible}")
        if both := {*self.better} & {*self.than}:
            raise ValueError(f"a claim has the row {min(both)!r} on both sides")
        return self


class Ablation(Record):
    """A table, and a target of the same name; `grid` crosses the values of (dotted) row keys.

    Every row is trained once per seed and, if `teachers` are given, per teacher.
    """

    title: str
    caption: str = ""
    setting: SettingName | None = None
    settings: Annotated[tuple[SettingName, ...], Distinct] = ()
    rows: dict[str, Row] = {}
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1), Distinct]] = {}
    columns: Annotated[tuple[ColumnName, ...], Field(min_length=1), Distinct]
    curve: Literal["fid", "pixel_fid"] | None = None  # a figure: this metric against the images seen
    seeds: Seeds | None = None
    teachers: Annotated[tuple[TeacherName, ...], Distinct] = ()
    choose: bool = False  # one row of each method, that with the lowest mean FID
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        self.require_one_of("setting", "settings")
        self.require_one_of("rows", "grid")
        if self.choose and self.settings[1:]:
            raise ValueError("'choose' chooses for one setting; write a file for each of 'settings'")
        if self.teachers and any(row.method and row.teacher for row in self.rows.values()):
            raise ValueError("'teachers' trains every row with each of them, so no row can name a 'teacher'")
        return self

    @model_validator(mode="after")
    def _claims_are_of_its_rows(self) -> Self:
        titles = self.titles()
        for claim in self.claims:
            for title in (*claim.better, *claim.than):
                if title not in titles:
                    raise ValueError(
                        f"a claim is on the row {title!r}, which is not here; there are: {', '.join(titles)}"
                    )
        return self

    def setting_names(self) -> tuple[str, ...]:
        """Return the settings the table is made for."""
        return self.settings or (self.setting or "",)

    def titles(self) -> tuple[str, ...]:
        """Return the titles of the rows; in a grid, the values that a row sets."""
        return tuple(self.rows or map(grid_title, itertools.product(*self.grid.values())))


def grid_title(values: Iterable[Any]) -> str:
    """Return the title of the row that sets these values of a grid."""
    return ", ".join(str(list(value) if isinstance(value, tuple) else value) for value in values)


class Target(Record):
    """A page and the tables on it."""

    title: str
    page: Name  # results/site/<page>.html
    tables: Annotated[tuple[AblationName, ...], Field(min_length=1), Distinct]


class Project(Record):
    """`config.yaml`: what the targets build."""

    seeds: Seeds
    targets: dict[Name, Target]

    @model_validator(mode="after")
    def _have_own_pages(self) -> Self:
        pages: dict[str, str] = {}
        for name, target in self.targets.items():
            if target.page in pages:
                raise ValueError(f"'{name}' and '{pages[target.page]}' have the same page; rename one")
            pages[target.page] = name
        return self
