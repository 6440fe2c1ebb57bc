"""Data sets, networks and settings as written in YAML, and what others published."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gdd.config.architecture import Architecture
from gdd.config.evaluation import Evaluation
from gdd.config.local import CPU, Card
from gdd.config.recipe import Count, PartialRecipe, Positive, Sampler, TeacherRecipe
from gdd.config.record import Record

Seed = Annotated[int, Field(ge=0)]


class Part(Record):
    """A fixed random part of a data set, the same wherever it is made.

    Either `one_in` and `take`: `held-out` is one in `one_in` images, `rest` all the others. Or
    `first_shuffled`: the first N images of a random order, so that a smaller part lies inside a larger one.
    """

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


class Rate(Record):
    """What one GPU, or one core, gets done in a second."""

    training: Positive  # images
    generating: Positive  # evaluations of the network, an image each
    judging: Positive  # images through the network that judges
    # Images that go through the networks together; fewer than the batch norm's group need more GPUs.
    at_once: Count | None = None
    known: Literal["measured", "reported", "estimated"]
    source: str


class Resources(Record):
    """What a run of a setting takes. The number of GPUs changes results by rounding only."""

    gpus: Annotated[int, Field(ge=0)] = 1  # 0 trains and judges on the CPU
    memory: Positive = 8.0  # GB of main memory for each process
    parameters: Positive | None = None  # millions, of the network; a snapshot has four bytes for each
    rates: dict[Literal[Card, "cpu"], Rate] = {}

    @model_validator(mode="after")
    def _says_what_each_holds(self) -> Self:
        for name, rate in self.rates.items():
            if (name == CPU) != (rate.at_once is None):
                raise ValueError(f"'rates.{name}': 'at_once' belongs to every card, and to cards only")
        return self


class Monitor(Record):
    """What is logged of a run while it is trained; no run becomes another by it.

    A FID of a few images shows the trend and compares with no FID of another number of images.
    """

    fid: Count  # images of which the evaluation's extractor takes a FID
    every: Count | None = None  # images of training between two; None is the snapshots' interval


class Setting(Record):
    """A data set with its teacher, the recipe every run starts from, and how runs are judged."""

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


class ExternalFile(Record):
    """A generator, or images of one, for one setting."""

    published: str | None = None  # a file of sources.yaml; None is a file that the user provides
    where: str = ""  # where the user finds it, told where it is missing


class External(Record):
    """One method's published generators, or images made by them, by the setting that judges each."""

    title: str
    # generator: a pickle as EDM, GDD and SiD publish them (nothing in it is run), or weights of this project.
    # images: an .npz, a folder, a .zip or a .tar.
    holds: Literal["generator", "images"]
    settings: Annotated[dict[str, ExternalFile], Field(min_length=1)]
    key: str = "ema"  # where in a pickle the network stands
    evaluations: Count | None = None  # of a network for an image, which images do not say
    licence: str

    @model_validator(mode="after")
    def _says_what_nobody_else_does(self) -> Self:
        if self.holds == "generator" and self.evaluations is not None:
            raise ValueError("'evaluations' belongs to images; a generator's file says it itself")
        return self
