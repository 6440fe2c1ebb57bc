"""Everything that decides the weights of a run: the recipe of a student and of a teacher."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, create_model, model_validator

from gdd.config.freeze import PolicyName
from gdd.config.names import BackboneName, DatasetName, TeacherName
from gdd.config.record import Count, Distinct, Fraction, NotNegative, Positive, Record

Distributional = Literal["softplus", "hinge"]
Instance = Literal["direct", "progressive", "consistency", "consistency-trajectory", "reverse-consistency"]
# Those that compare neighbouring noise levels of a grid.
ON_A_GRID = ("progressive", "consistency", "consistency-trajectory", "reverse-consistency")
AugmentPolicy = Literal["color", "translation", "cutout"]
AUGMENT_POLICIES: tuple[AugmentPolicy, ...] = ("color", "translation", "cutout")
BackboneStatistics = Literal["published", "release"]


def _since(default: Any) -> Any:
    """Annotates a key that came later: at its default, which is what was done before, no hash knows of it."""
    return Field(exclude_if=lambda value: value == default)


class LearningRates(Record):
    """Adam's learning rates."""

    generator: Positive
    discriminator: Positive


class Adam(Record):
    """Adam's averaging factors for the generator; the discriminator's follow from lazy R1."""

    beta1: Fraction = 0.0
    beta2: Fraction = 0.99


class Ema(Record):
    """Exponential moving average of the generator: half-life min(half_life, ramp * images so far)."""

    half_life: Count  # images
    ramp: Positive = 0.05


class R1(Record):
    """Lazy R1 on real images (StyleGAN2): `gamma / 2` times `every`, on per-image mean losses."""

    gamma: Annotated[float, Field(ge=0)]
    every: Count = 16  # iterations


class Heads(Record):
    """The trained part of the projected discriminator."""

    kind: Literal["downsampling", "local"] = "downsampling"
    channels: Count = 64  # of a `local` head; `downsampling` heads follow StyleGAN-XL's table
    projection_channels: Count = 64
    # Sets of random projections; group k of norm_group images goes through number k modulo their count.
    projections: Annotated[Count, _since(1)] = 1
    norm_group: Count = 64  # images over which batch norm takes its statistics
    class_embedding: Literal["random", "stylegan-xl"] = "random"  # what it starts from; conditional ones only


class Augment(Record):
    """Random changes of all images before the discriminator: DiffAugment's policies, or ADA.

    ADA (arXiv:2006.06676) adapts how often it changes something, so that the mean sign of the discriminator's
    logits of real images stays at `target`.
    """

    kind: Literal["none", "diffaugment", "ada"] = "none"
    policies: Annotated[tuple[AugmentPolicy, ...], Field(min_length=1), Distinct] = AUGMENT_POLICIES
    # The hidden square's side in sides of the image: DiffAugment's. GDD's code has 0.2.
    cutout: Annotated[float, Field(gt=0, le=1), _since(0.5)] = 0.5
    target: Annotated[float, Field(gt=-1, lt=1)] = 0.6
    speed_kimg: Positive = 500.0  # thousands of images in which the probability can go from 0 to 1

    @model_validator(mode="after")
    def _uses_what_it_sets(self) -> Self:
        belongs = {"policies": "diffaugment", "cutout": "diffaugment", "target": "ada", "speed_kimg": "ada"}
        for key, kind in belongs.items():
            if self.kind != kind and self.changes(key):
                raise ValueError(f"'{key}' belongs to 'kind: {kind}'")
        return self


class Objective(Record):
    """What the student is trained on: a distributional loss, an instance-based one, or their sum."""

    distributional: Distributional | None = None
    instance: Instance | None = None
    instance_weight: Positive = 1.0
    pairs: NotNegative = 0  # direct: ODE pairs solved beforehand; 0 solves them as it goes
    grid: Count = 18  # all but direct: steps of the noise grid from 0.002 to 80 (EDM's sampler of CIFAR-10)
    distance: Literal["squared", "lpips"] = "squared"  # of an instance-based loss: squared error, LPIPS (VGG)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        instances = get_args(Instance)
        if self.distributional is None and self.instance is None:
            raise ValueError(
                f"an objective needs 'distributional' ({', '.join(get_args(Distributional))}), 'instance' "
                f"({', '.join(instances)}) or both"
            )
        belongs = {"pairs": ("direct",), "grid": ON_A_GRID, "distance": instances}
        for key, objectives in belongs.items():
            if self.changes(key) and self.instance not in objectives:
                raise ValueError(f"'{key}' belongs to 'instance': {', '.join(objectives)}")
        if self.instance == "progressive" and (self.grid < 2 or self.grid & (self.grid - 1)):
            raise ValueError(
                f"'instance: progressive' halves its 'grid' down to single steps, which {self.grid} do not "
                "allow; give a power of two, such as 16"
            )
        if self.instance == "consistency-trajectory" and self.grid < 2:
            raise ValueError("'instance: consistency-trajectory' needs a 'grid' of at least 2 steps")
        return self


class Sampler(Record):
    """EDM's Heun sampler; `churn` > 0 makes it stochastic (EDM Algorithm 2)."""

    steps: Count
    churn: Annotated[float, Field(ge=0)] = 0.0
    churn_min: float = 0.0
    churn_max: float = 1e3  # beyond every noise level
    churn_noise: Positive = 1.0

    @property
    def evaluations(self) -> int:
        """Evaluations of the network for an image: two a step, and one in the last (EDM Algorithm 1)."""
        return 2 * self.steps - 1


class Recipe(Record):
    """All that decides a student's weights, apart from the seed."""

    dataset: DatasetName
    teacher: TeacherName
    teacher_sampler: Sampler
    objective: Objective
    freeze: PolicyName | tuple[str, ...] = "none"
    # `random` is as EDM begins a teacher, with last layers at 0; in GDD's code they are not at 0.
    init: Literal["teacher", "random"] = "teacher"
    generator_steps: Count = 1  # evaluations of the network per image
    renoise: Annotated[bool, _since(True)] = True  # fresh noise before each of them; GDD's code adds none
    images: Count
    batch: Count
    snapshot_every: Count  # images
    lr: LearningRates
    adam: Adam = Adam()
    ema: Ema
    backbones: Annotated[tuple[BackboneName, ...], Distinct] = ()
    # Of published backbones' batch norms; `release`: moved by an image of zeros, as in GDD's code.
    backbone_statistics: Annotated[BackboneStatistics, _since("published")] = "published"
    heads: Heads = Heads()
    r1: R1 = R1(gamma=1e-4)
    reuse_fakes: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"  # of the generator's activations
    augment: Augment = Augment()  # of what the discriminator sees, but for R1
    flip: bool = False  # mirror each real image with probability 1/2
    keep: Literal["all", "reported"] = "all"  # which snapshots stay once a run is evaluated

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.objective.distributional and not self.backbones:
            raise ValueError("a distributional objective needs at least one network in 'backbones'")
        if self.augment.kind != "none" and not self.objective.distributional:
            raise ValueError("'augment' belongs to a 'distributional' objective, whose discriminator sees it")
        if self.generator_steps > 1 and self.renoise and self.objective.instance == "direct":
            raise ValueError(
                "'instance: direct' ties one noise to one image, and a generator of several steps takes more "
                "noise; set 'generator_steps' to 1 or 'renoise' to false"
            )
        if self.teacher_sampler.churn and self.objective.instance == "direct":
            raise ValueError(
                "'instance: direct' imitates the end of the teacher's ODE, which needs a deterministic "
                "sampler; set 'teacher_sampler.churn' to 0"
            )
        if self.batch % self.heads.norm_group:
            raise ValueError(
                f"'batch' ({self.batch}) cannot be divided into groups of 'heads.norm_group' "
                f"({self.heads.norm_group}) images; make it a multiple"
            )
        if self.images < self.batch:
            raise ValueError(f"'images' ({self.images}) is less than one 'batch' ({self.batch})")
        if self.snapshot_every > self.images:
            raise ValueError(f"'snapshot_every' ({self.snapshot_every}) exceeds 'images' ({self.images})")
        return self

    def snapshots(self) -> list[int]:
        """Return the image counts at which a snapshot is kept; the last one is the end of the run."""
        counts = list(range(self.snapshot_every, self.images + 1, self.snapshot_every))
        return counts if counts[-1] == self.images else [*counts, self.images]


class TeacherRecipe(Record):
    """All that decides a teacher trained here (data sets without a published one)."""

    images: Count
    batch: Count
    lr: Positive
    warmup: NotNegative = 0  # images over which the rate rises from 0
    decay: Fraction = 0.0  # the last part of the run, over which the rate falls to a tenth
    ema: Ema
    p_mean: float = -1.2  # EDM Table 1: ln(sigma) ~ N(p_mean, p_std^2)
    p_std: Positive = 1.2
    seed: NotNegative = 0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.images < self.batch:
            raise ValueError(f"'images' ({self.images}) is less than one 'batch' ({self.batch})")
        return self


def partial(kind: type[Record]) -> Any:
    """Return a record with the same keys and types as `kind` in which each key may be left out.

    Records inside it are partial too. Checks that look at several keys wait until the parts are merged.
    """
    fields: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        annotation = field.rebuild_annotation()
        if isinstance(annotation, type) and issubclass(annotation, Record):
            annotation = partial(annotation)
        fields[name] = (annotation | None, None)
    return create_model(f"Partial{kind.__name__}", __base__=Record, **fields)


PartialRecipe: Any = partial(Recipe)
