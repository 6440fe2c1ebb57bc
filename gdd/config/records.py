"""Data sets, networks and settings as written in YAML, and what others published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from gdd.config.architecture import Architecture
from gdd.config.local import CPU
from gdd.config.metrics import PIXELS, MetricName, by_extractor, too_few_images
from gdd.config.names import (
    DatasetName,
    ExtractorName,
    MethodName,
    Name,
    SettingName,
    SourceName,
    TeacherName,
)
from gdd.config.recipe import PartialRecipe, Sampler, TeacherRecipe
from gdd.config.record import Count, Distinct, NotNegative, Positive, Record

USUAL = ("fid", "precision", "recall", "density", "coverage")
USUAL_OF_PIXELS = (*(f"pixel_{name}" for name in USUAL), "nearest")
ON_CURVES = ("fid", "pixel_fid")
RESIDUAL_FEATURES = 64
EVALUATION_SEED = 0  # the latents that samples and metrics are made from


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
        if self.model_fields_set not in ({"one_in", "take"}, {"first_shuffled"}):
            raise ValueError("a part is either 'one_in' with 'take', or 'first_shuffled'")
        return self


class Dataset(Record):
    """An image data set and what it must turn out to be."""

    title: str
    # folder: images in a folder, .zip or .tar. EDM's own ZIP is taken for `cifar10` and `folder` alike.
    source: Literal["digits", "cifar10", "folder"]
    # Where its raw data lies: a key of `raw_data` in local.yaml, or else a file of sources.yaml. None is the
    # data set's own name.
    raw: Name | None = None
    # EDM's preparation: the whole image to resolution x resolution, or the centred square of the short side.
    # None takes images that have their size already.
    transform: Literal["resize", "center-crop"] | None = None
    part: Part | None = None  # None is all of it
    source_images: Count | None = None  # in the source, where `part` leaves some out; None is `images`
    allow_corrupt: NotNegative = 0  # unusable images that may be left out
    resolution: Count
    channels: Count
    images: Count
    classes: NotNegative  # 0 has no labels; otherwise a folder's sub-folders name them
    licence: str = ""
    statistics: SourceName | None = None  # mean and covariance that others published

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

    def raw_in_words(self) -> str:
        """Return in words what raw data the data set is made from."""
        if self.source == "cifar10":
            return "cifar-10-binary.tar.gz, cifar-10-python.tar.gz, the folder one unpacks to, or EDM's ZIP"
        classes = f" in {self.classes:,} sub-folders, one for each class" if self.classes else ""
        images = f"{self.source_images or self.images:,} images{classes}"
        return f"a folder, .zip or .tar of its {images}, or EDM's ZIP"


class FeatureNetwork(Record):
    """A small frozen network for tiny images: a backbone of the discriminator, or a metric's extractor."""

    title: str
    dataset: DatasetName
    architecture: Literal["plain", "residual"]
    width: Count
    steps: NotNegative  # of training as a classifier; 0 keeps random weights
    batch: Count = 128
    lr: Positive = 2e-3
    seed: NotNegative

    @property
    def features(self) -> int:
        """How many it gives of an image."""
        return 4 * self.width if self.architecture == "plain" else RESIDUAL_FEATURES


class Teacher(Record):
    """A pretrained diffusion model: published by others, or trained here."""

    title: str
    dataset: DatasetName  # a published one's serves to tell which settings it fits
    architecture: Architecture
    published: SourceName | None = None
    training: TeacherRecipe | None = None

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> Self:
        self.require_one_of("published", "training")
        return self


class Rate(Record):
    """What one GPU, or one core, gets done in a second."""

    training: Positive  # images
    generating: Positive  # evaluations of the network, an image each
    evaluating: Positive  # images through the network whose features are compared
    # Images that go through the networks together; fewer than the batch norm's group need more GPUs.
    at_once: Count | None = None
    known: Literal["measured", "reported", "estimated"]
    source: str


class Resources(Record):
    """What a run of a setting takes. The number of GPUs changes results by rounding only."""

    gpus: NotNegative = 1  # 0 trains and evaluates on the CPU
    evaluation_gpus: Count = 1  # of one evaluation, where `gpus` is not 0; each sees a part of the images
    memory: Positive = 8.0  # GB of main memory for each process
    parameters: Positive | None = None  # millions, of the network; a snapshot has four bytes for each
    rates: dict[Annotated[str, Field(pattern=r"^([1-9]\d* GB|cpu)$")], Rate] = {}

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


class Evaluation(Record):
    """How the runs of a setting are evaluated.

    Every snapshot is evaluated by its FID on block 0 of the latents; the last, the best (by that FID) and
    those of `also_at` by all metrics on every block.
    """

    dataset: DatasetName | None = None  # the real images compared with; None is the setting's own data set
    extractor: ExtractorName  # in whose features `fid`, `precision` and most others are computed
    pixels: bool = False  # the usual metrics on raw pixels too, and `nearest`
    samples: Count  # generated images per block of latents
    blocks: Count = 1  # blocks for the final and the best snapshot; curves use block 0
    # Image counts of further snapshots that are evaluated like the final one, in runs that have them.
    also_at: Annotated[tuple[Count, ...], Distinct] = ()
    # All metrics; none is the usual ones: fid, precision, recall, density, coverage, and what `pixels` adds.
    metrics: Annotated[tuple[MetricName, ...], Distinct] = ()

    @model_validator(mode="after")
    def _has_what_chooses(self) -> Self:
        if self.metrics and "fid" not in self.metrics:
            raise ValueError("'metrics' needs 'fid', by which the best snapshot is chosen")
        if self.metrics and self.pixels:
            raise ValueError("'pixels' adds to the usual metrics; beside 'metrics', name them there")
        if self.dataset is not None and PIXELS in self.extractors():
            key = "metrics" if self.metrics else "pixels"
            raise ValueError(
                f"'{key}' compares pixels with the training images, so it cannot stand beside 'dataset'"
            )
        return self

    def wanted(self) -> tuple[str, ...]:
        """Return the metrics of whatever is evaluated in full."""
        return self.metrics or USUAL + (USUAL_OF_PIXELS if self.pixels else ())

    def wanted_on_curves(self) -> tuple[str, ...]:
        """Return the metrics of every snapshot."""
        return tuple(metric for metric in self.wanted() if metric in ON_CURVES)

    def too_few(self, real: int, features: Mapping[str, int]) -> str:
        """Return why a metric cannot be had of so many real images, as evaluating would say it.

        `features` is how many each extractor gives.
        """
        count = min(self.samples, real)
        for extractor, metrics in by_extractor(self.wanted(), self.extractor).items():
            for metric in metrics:
                if problem := too_few_images(count, metric, features[extractor], extractor):
                    return problem
        return ""

    def extractors(self) -> list[str]:
        """Return the extractors that the metrics need, `pixels` among them."""
        return list(by_extractor(self.wanted(), self.extractor))


def _or_like(schema: dict[str, Any]) -> None:
    """Let a setting's file leave out what the one has that it is `like`."""
    schema["anyOf"] = [{"required": ["like"]}, {"required": schema.pop("required")}]


class Setting(Record):
    """A data set with its teacher, the recipe every run starts from, and how runs are evaluated."""

    model_config = ConfigDict(json_schema_extra=_or_like)

    like: SettingName | None = None  # the setting that all comes from which this one's file does not say
    title: str
    notes: tuple[str, ...] = ()  # what a reader of its numbers has to know, shown with every table
    dataset: DatasetName
    teacher: TeacherName
    teacher_sampler: Sampler
    recipe: PartialRecipe
    methods: dict[MethodName, PartialRecipe] = {}  # what a method changes in this setting
    evaluation: Evaluation
    monitor: Monitor | None = None  # None logs no FID on the way
    resources: Resources = Resources()


class ExternalFile(Record):
    """A generator, or images of one, for one setting."""

    published: SourceName | None = None  # None is a file that the user provides
    where: str = ""  # where the user finds it


class External(Record):
    """One method's published generators, or images made by them, by the setting that evaluates each."""

    title: str
    # generator: a pickle as EDM, GDD and SiD publish them (nothing in it is run), or weights of this project.
    # images: an .npz, a folder, a .zip or a .tar.
    holds: Literal["generator", "images"]
    settings: Annotated[dict[SettingName, ExternalFile], Field(min_length=1)]
    key: str = "ema"  # where in a pickle the network stands
    evaluations: Count | None = None  # of a network for an image, which images do not say
    licence: str

    @model_validator(mode="after")
    def _says_what_nobody_else_does(self) -> Self:
        if self.holds == "generator" and self.evaluations is not None:
            raise ValueError("'evaluations' belongs to images; a generator's file says it itself")
        return self
