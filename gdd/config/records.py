"""Data sets, teachers, feature networks, settings, methods and ablations as written in YAML."""

from __future__ import annotations

import difflib
import itertools
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from gdd.config.architecture import Architecture
from gdd.config.evaluation import Evaluation
from gdd.config.metrics import ColumnName, columns
from gdd.config.recipe import Count, PartialRecipe, Positive, Sampler, TeacherRecipe
from gdd.config.record import Distinct, Record
from gdd.config.resources import Resources

Seed = Annotated[int, Field(ge=0)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), Distinct]
Names = Annotated[tuple[str, ...], Field(min_length=1), Distinct]


class Part(Record):
    """A fixed random part of a data set, the same wherever it is made.

    Either `one_in` and `take`: `held-out` is one in `one_in` images, `rest` all the others. Or
    `first_shuffled`: the first N images of a random order, so that a smaller part lies inside a larger one.
    """

    later_keys: ClassVar[tuple[str, ...]] = ("one_in", "take", "first_shuffled")

    one_in: Annotated[int, Field(ge=2)] | None = None
    take: Literal["held-out", "rest"] | None = None
    first_shuffled: Count | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        split = (self.one_in is not None, self.take is not None)
        if any(split) != all(split) or any(split) == (self.first_shuffled is not None):
            raise ValueError("a part is either 'one_in' with 'take', or 'first_shuffled'")
        return self


class Dataset(Record):
    """An image data set and what it must turn out to be."""

    later_keys: ClassVar[tuple[str, ...]] = (
        "raw",
        "transform",
        "source_images",
        "allow_corrupt",
        "statistics",
    )

    title: str
    # folder: images in a folder, .zip or .tar. EDM's own ZIP is taken for `cifar10` and `folder` alike.
    source: Literal["digits", "cifar10", "folder"]
    # Where its raw data lies: a key of `raw_data` in local.yaml, or else a file of sources.yaml. None is the
    # data set's own name.
    raw: str | None = None
    # EDM's preparation: the whole image to resolution x resolution, or the centred square of the short side.
    # None takes images that have their size already.
    transform: Literal["resize", "center-crop"] | None = None
    part: Part | None = None  # None is all of it
    source_images: Count | None = None  # in the source, where `part` leaves some out; None is `images`
    allow_corrupt: Annotated[int, Field(ge=0)] = 0  # unusable images that may be left out
    resolution: Count
    channels: Count
    images: Count
    classes: Annotated[int, Field(ge=0)]  # 0 has no labels; otherwise a folder's sub-folders name them
    licence: str = ""
    statistics: str | None = None  # a file of sources.yaml: mean and covariance that others published

    @model_validator(mode="after")
    def _fits_its_source(self) -> Self:
        if self.transform and self.source != "folder":
            raise ValueError(f"the source '{self.source}' knows no 'transform'")
        if self.source != "digits" and self.channels != 3:
            raise ValueError(f"images of the source '{self.source}' are RGB: 'channels' has to be 3")
        if self.source_images is not None and self.part is None:
            raise ValueError("'source_images' belongs to a 'part': without one, 'images' says it")
        if self.source != "digits" and self.part and self.source_images is None:
            raise ValueError("a 'part' needs 'source_images', the number of images it is taken from")
        return self


class FeatureNetwork(Record):
    """A small frozen network for tiny images: the discriminator looks through it, or it judges."""

    title: str
    dataset: str
    architecture: Literal["plain", "residual"]
    width: Count
    steps: Annotated[int, Field(ge=0)]  # of training as a classifier; 0 keeps random weights
    batch: Count = 128
    lr: Positive = 2e-3
    seed: Seed


class Teacher(Record):
    """A pretrained diffusion model: published by others, or trained here."""

    later_keys: ClassVar[tuple[str, ...]] = ("published", "training")

    title: str
    dataset: str  # a published one's serves to tell which settings it fits
    architecture: Architecture
    published: str | None = None  # a file of sources.yaml
    training: TeacherRecipe | None = None

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> Self:
        if (self.published is None) == (self.training is None):
            raise ValueError("give either 'published' or 'training'")
        return self


class Monitor(Record):
    """What is logged of a run while it is trained; no run becomes another by it.

    A FID of a few images shows the trend and compares with no FID of another number of images.
    """

    fid: Count  # images of which the evaluation's extractor takes a FID
    every: Count | None = None  # images of training between two; None is the snapshots' interval


class Setting(Record):
    """A data set with its teacher, the recipe every run starts from, and how runs are judged."""

    later_keys: ClassVar[tuple[str, ...]] = ("monitor", "notes")

    title: str
    notes: tuple[str, ...] = ()  # what a reader of its numbers has to know, shown with every table
    dataset: str
    teacher: str
    teacher_sampler: Sampler
    recipe: PartialRecipe
    methods: dict[str, PartialRecipe] = {}  # what a method changes in this setting
    evaluation: Evaluation
    monitor: Monitor | None = None  # None logs no FID on the way
    resources: Resources = Resources()


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
