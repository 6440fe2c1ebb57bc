"""Methods, tables and targets as written in YAML, and what others report."""

from __future__ import annotations

import difflib
import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gdd.config.metrics import ColumnName, columns
from gdd.config.recipe import Count, PartialRecipe, Positive
from gdd.config.record import Distinct, Record

Seed = Annotated[int, Field(ge=0)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), Distinct]
Names = Annotated[tuple[str, ...], Field(min_length=1), Distinct]


class Method(PartialRecipe):  # type: ignore[misc]
    """What makes a method: its look in tables and figures, and the part of the recipe it decides."""

    title: str
    colour: Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]
    marker: Literal["o", "s", "D", "^", "v", "P", "X", "*"] = "o"


class Row(PartialRecipe):  # type: ignore[misc]
    """A table's row: a method and the recipe keys it changes, the teacher itself, or what others published.

    The last stands only in those of the table's settings for which there is a file of it.
    """

    method: str | None = None
    teacher_steps: Count | Literal["setting"] | None = None  # setting: those of its `teacher_sampler`
    external: str | None = None
    # Which snapshot the row shows; an image count is one of the setting's `evaluation.also_at`, or the end.
    at: Count | Literal["end", "best"] = "end"

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if [self.method, self.teacher_steps, self.external].count(None) != 2:
            raise ValueError("a row needs one of 'method', 'teacher_steps' and 'external'")
        if self.external is not None and self.model_fields_set != {"external"}:
            other = min(self.model_fields_set - {"external"})
            raise ValueError(f"a row with 'external' trains nothing: '{other}' cannot stand beside it")
        ignored = self.model_fields_set - {"method", "teacher_steps", "teacher"}
        if self.teacher_steps is not None and ignored:
            raise ValueError(
                f"a row with 'teacher_steps' trains nothing: only 'teacher' can stand beside it, "
                f"not '{min(ignored)}'"
            )
        return self


class Reported(Record):
    """Numbers that others report, and where."""

    setting: str
    method: str | None = None  # with the lowest FID of a run: what the papers give
    teacher_steps: Count | None = None
    external: str | None = None  # a file of external/
    fid: Positive
    recall: Positive | None = None
    clip_fid: Positive | None = None
    source: str

    @model_validator(mode="after")
    def _is_of_one_thing(self) -> Self:
        if [self.method, self.teacher_steps, self.external].count(None) != 2:
            raise ValueError("a reported number is of one of 'method', 'teacher_steps' and 'external'")
        return self


class ReportedNumbers(Record):
    """`reported.yaml`: what to print beside our own numbers."""

    reported: tuple[Reported, ...]


class Curve(Record):
    """A figure beside the table: a metric against the images seen."""

    x: Literal["images"] = "images"
    y: Literal["fid", "pixel_fid"] = "fid"


class Choice(Record):
    """One row is chosen per value of a row key: the one with the lowest mean of a column."""

    per: Literal["method"] = "method"
    by: Literal["fid"] = "fid"


class Claim(Record):
    """What a table is meant to show: each row of `better` is better than each of `than` in a column.

    Whether it holds is decided from the runs and shown with the table.
    """

    better: str | Names
    than: str | Names
    column: ColumnName = Field(alias="in")

    @model_validator(mode="after")
    def _can_be_decided(self) -> Self:
        known = columns()
        if known[self.column].better is None or not known[self.column].spread:
            possible = ", ".join(name for name, of in known.items() if of.better and of.spread)
            raise ValueError(f"no claim can be made in the column '{self.column}'; choose one of: {possible}")
        if both := set(self.winners()) & set(self.losers()):
            raise ValueError(f"a claim has the row {min(both)!r} on both sides")
        return self

    def winners(self) -> tuple[str, ...]:
        """Return the titles of the rows that should be better."""
        return (self.better,) if isinstance(self.better, str) else self.better

    def losers(self) -> tuple[str, ...]:
        """Return the titles of the rows that should be worse."""
        return (self.than,) if isinstance(self.than, str) else self.than


class Ablation(Record):
    """A table, and a target of the same name; `grid` crosses the values of (dotted) row keys.

    Every row is trained once per seed and, if `teachers` are given, per teacher.
    """

    title: str
    caption: str = ""
    setting: str | None = None
    settings: Annotated[tuple[str, ...], Distinct] = ()
    rows: dict[str, Row] = {}
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1), Distinct]] = {}
    columns: Annotated[tuple[ColumnName, ...], Field(min_length=1), Distinct]
    curve: Curve | None = None
    seeds: Seeds | None = None
    teachers: Annotated[tuple[str, ...], Distinct] = ()
    choose: Choice | None = None
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.setting is None) == (not self.settings):
            raise ValueError("give either 'setting' or 'settings'")
        if bool(self.rows) == bool(self.grid):
            raise ValueError("give either 'rows' or 'grid'")
        if self.teachers and any(row.method and row.teacher for row in self.rows.values()):
            raise ValueError("'teachers' trains every row with each of them, so no row can name a 'teacher'")
        return self

    @model_validator(mode="after")
    def _claims_are_of_its_rows(self) -> Self:
        titles = self.titles()
        for claim in self.claims:
            for title in (*claim.winners(), *claim.losers()):
                if title not in titles:
                    near = ", ".join(difflib.get_close_matches(title, titles, n=3) or titles)
                    raise ValueError(f"a claim is on the row {title!r}, which is not here; there are: {near}")
        return self

    def setting_names(self) -> tuple[str, ...]:
        """Return the settings the table is made for."""
        return self.settings or (self.setting or "",)

    def titles(self) -> tuple[str, ...]:
        """Return the titles of the rows; in a grid, the values that a row sets."""
        if self.rows:
            return tuple(self.rows)
        return tuple(", ".join(map(str, values)) for values in itertools.product(*self.grid.values()))


class Target(Record):
    """A page and the tables on it."""

    title: str
    page: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]  # results/site/<page>.html
    tables: Names  # of ablations


class Project(Record):
    """`config.yaml`: what the targets build."""

    seeds: Seeds
    targets: dict[str, Target]
