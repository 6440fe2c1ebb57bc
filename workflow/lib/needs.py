"""What the job of each stage needs of a machine, and how long it takes: estimates from the configuration.

Nothing here decides a result. Nothing imports torch, so the workflow loads it in no time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from gdd.config.config import Config
from gdd.config.metrics import PIXELS
from gdd.config.names import EXTRACTORS, FEATURES
from gdd.config.recipe import Recipe, Sampler
from gdd.config.records import Setting
from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.stages.inputs import reference_dataset
from gdd.training.layout import lay_out, most_processes
from workflow.lib.rates import UNKNOWN, Known, known_rate

HOUR = 3600.0
CORES = 2  # beside each GPU: one drives it, one reads ahead
EVALUATING_CORES = 4  # what is left for a CPU beside a GPU's features: eigenvalues, copies
PROCESS_MB = 6000  # of each further process of an evaluation: CUDA's libraries and the networks
LARGE_MB = 12_000  # 50,000 x 2048 features, twice, in float64
COST = {"dinov2": 14}  # of an extractor, beside Inception: by multiplications, 81 G to 5.7 G
PREPARED = 240.0  # image files a second and core: benchmarks/preparation.py, JPEGs as ImageNet has them
SMALL_IMAGES = 5000.0  # images a second out of one file
TEACHER_STEPS = 3.0  # a teacher's steps are faster than a student's, which has a discriminator: on the digits


@dataclass(frozen=True)
class Need:
    """What a job needs: GPUs in all, cores and megabytes on each machine, hours (None if nobody knows).

    `minutes` is the least time limit. `known` says what the hours come from, where they count. `disk` is the
    bytes that stay. `stretch` is the longest that the job goes without saving what it did, in hours.
    """

    cores: int = 1
    memory_mb: int = 2000
    minutes: int = 30
    gpus: int = 0
    nodes: int = 1
    hours: float | None = 0.0
    known: str = ""
    disk: float | None = 0.0
    stretch: float = 0.0

    @property
    def gpu_hours(self) -> float | None:
        return None if self.hours is None else self.gpus * self.hours


SHOWING = Need(memory_mb=1000, minutes=10, hours=5 / HOUR)


class Needs:
    """Answers for one configuration: a method for each stage, called with the stage's names."""

    def __init__(self, experiments: Experiments) -> None:
        self.experiments = experiments
        self.config: Config = experiments.config

    def of(self, stage: str, names: dict[str, str]) -> Need:
        """Return what a job of a stage needs; tables, figures and pages take seconds."""
        ask: Callable[..., Need] | None = getattr(self, stage, None)
        return ask(**names) if ask else SHOWING

    # --- data, references, teachers ---------------------------------------------------------------------

    def fetch(self, name: str) -> Need:
        # How long it takes, the line decides.
        return Need(memory_mb=1000, minutes=240, disk=self.config.sources[name].bytes)

    def dataset(self, dataset: str) -> Need:
        of = self.config.datasets[dataset]
        images, size = of.source_images or of.images, of.images * (of.channels * of.resolution**2 + 8)
        if of.source != "folder":
            return Need(hours=images / SMALL_IMAGES / HOUR, disk=size)
        hours = images / (8 * PREPARED) / HOUR
        return Need(cores=8, memory_mb=5500, minutes=720, hours=hours, known="estimated", disk=size)

    def features(self, name: str) -> Need:  # noqa: ARG002
        return Need(hours=15 / HOUR)

    def reference(self, dataset: str, extractor: str) -> Need:
        if extractor not in EXTRACTORS:
            return Need(hours=5 / HOUR)
        rate, gpus = self._rate_of_dataset(dataset), int(self.config.local.gpus != 0)
        images, width = self.config.datasets[dataset].images, FEATURES[extractor]
        hours = images * COST.get(extractor, 1) / rate.rate.evaluating / HOUR if rate else None
        disk = 4 * min(images, 50_000) * width + 8 * width**2
        cores = EVALUATING_CORES if gpus else 1
        return Need(
            cores, LARGE_MB, 30, gpus, hours=hours, known=_rest(rate), disk=disk, stretch=hours or 0.0
        )

    def distance(self, dataset: str, extractor: str) -> Need:  # noqa: ARG002
        return Need(memory_mb=4000, hours=10 / HOUR)

    def teacher(self, teacher: str) -> Need:
        record, disk = self.config.teachers[teacher], self.snapshot_bytes(teacher)
        if record.training is None:
            return Need(memory_mb=8000, hours=30 / HOUR, disk=disk)
        setting = self._setting_of(record.dataset)
        gpus = int(setting is not None and self._on_gpu(self.config.settings[setting]))
        # Nothing can run beside it, and on a CPU two threads are half as fast again as one. Not more, so that
        # the same numbers come out wherever there are two cores.
        need = Need(cores=2, memory_mb=8000 if gpus else 4000, minutes=120, gpus=gpus, disk=disk)
        of = self._rate(setting) if setting else None
        if of is None:
            return replace(need, hours=None, known=UNKNOWN)
        hours = record.training.images / (TEACHER_STEPS * of.rate.training) / HOUR
        return replace(need, hours=hours, known=of.training)

    def pairs(self, teacher: str, steps: str, pairs: str) -> Need:
        record = self.config.datasets[self.config.teachers[teacher].dataset]
        setting, count = self._setting_of(self.config.teachers[teacher].dataset), int(pairs)
        rate = self._rate(setting) if setting else None
        hours = count * Sampler(steps=int(steps)).evaluations / rate.rate.generating / HOUR if rate else None
        gpus = int(self._on_gpu(self.config.settings[setting])) if setting else 0
        cores, memory = (CORES, 8000) if gpus else (1, 2000)
        disk = 2 * 4 * count * record.channels * record.resolution**2
        stretch = hours or 0.0
        return Need(cores, memory, 60, gpus, hours=hours, known=_rest(rate), disk=disk, stretch=stretch)

    # --- runs and their evaluation ----------------------------------------------------------------------

    def distill(self, setting: str, run: str, seed: str = "0") -> Need:  # noqa: ARG002
        recipe, record = self.experiments.find(setting, run), self.config.settings[setting]
        gpus = self._gpus(setting, recipe)
        of = self._rate(setting, math.ceil(recipe.batch / max(gpus, 1)))
        nodes = self.config.local.nodes if gpus > 1 else 1
        here = max(gpus // nodes, 1)
        return Need(
            cores=CORES * here if gpus else 1,
            memory_mb=math.ceil(1000 * record.resources.memory * here),
            minutes=120,
            gpus=gpus,
            nodes=nodes,
            hours=recipe.images / (of.rate.training * max(gpus, 1)) / HOUR if of else None,
            known=of.training if of else UNKNOWN,
            disk=self._run_bytes(recipe),
        )

    def refuse_too_few_gpus(self, setting: str, run: str, seed: str = "0") -> None:  # noqa: ARG002
        """Refuse a run if no part of its batch fits into the memory of its GPUs, as far as that is known.

        Raises:
            UserError: none does.
        """
        recipe = self.experiments.find(setting, run)
        gpus, of = self._gpus(setting, recipe), self._rate(setting)
        if not (gpus and of and of.rate.at_once):
            return
        piece = lay_out(recipe, gpus).piece
        if piece > of.rate.at_once:
            raise UserError(
                f"The run {setting}/{run} would have {gpus} GPU{'s'[: gpus != 1]}, each of which holds "
                f"{of.rate.at_once} images at once ({of.rest}), but has to take {piece}; give 'gpus' or "
                f"'card' in {self.config.root}/local.yaml a larger value, or leave out the run."
            )

    def evaluate_run(self, setting: str, run: str, seed: str = "0") -> Need:  # noqa: ARG002
        recipe, evaluation = self.experiments.find(setting, run), self.config.settings[setting].evaluation
        also = len([count for count in evaluation.also_at if count in recipe.snapshots()[:-1]])
        # The whole curve on one block; the end, the best and what else is asked for on all, but for the best
        # all of them known beforehand, so that their first block is the curve's.
        curve, blocks = len(recipe.snapshots()) - 1 - also, evaluation.blocks * (2 + also)
        return self._evaluation(setting, recipe.generator_steps, blocks, curve)

    def evaluate_teacher(self, setting: str, teacher: str, steps: str) -> Need:  # noqa: ARG002
        evaluations = Sampler(steps=int(steps)).evaluations
        return self._evaluation(setting, evaluations, self.config.settings[setting].evaluation.blocks)

    def evaluate_external(self, setting: str, external: str) -> Need:  # noqa: ARG002
        return self._evaluation(setting, 1, self.config.settings[setting].evaluation.blocks)

    def import_external(self, setting: str, external: str) -> Need:  # noqa: ARG002
        return Need(memory_mb=8000, hours=30 / HOUR)

    def _evaluation(self, setting: str, evaluations: int, blocks: int, curve: int = 0) -> Need:
        record = self.config.settings[setting]
        of, wanted = self._rate(setting), record.evaluation.extractors()
        hours, stretch = None, 0.0
        if of:
            rate = of.rate
            seen = sum(COST.get(name, 1) for name in wanted if name != PIXELS)
            generating = evaluations / rate.generating
            # A block is evaluated at once.
            stretch = record.evaluation.samples * (generating + seen / rate.evaluating) / HOUR
            on_curve = record.evaluation.samples * (generating + 1 / rate.evaluating) / HOUR
            hours = blocks * stretch + curve * on_curve
        gpus, local = 0, self.config.local
        if self._on_gpu(record):
            gpus = local.evaluation_gpus or record.resources.evaluation_gpus
            stretch, hours = stretch / gpus, None if hours is None else hours / gpus
        memory = LARGE_MB if EXTRACTORS.keys() & wanted else 2000
        memory += PROCESS_MB * max(gpus - 1, 0)
        cores = EVALUATING_CORES + CORES * (gpus - 1) if gpus else 1
        return Need(cores, memory, 60, gpus, hours=hours, known=_rest(of), stretch=stretch)

    # --- rates and sizes --------------------------------------------------------------------------------

    def _gpus(self, name: str, recipe: Recipe) -> int:
        """Return the GPUs of a run: as many as can share the batch, and enough that a part fits into each.

        Where local.yaml says how many, it knows.
        """
        setting = self.config.settings[name]
        if not self._on_gpu(setting):
            return 0
        local, of, wanted = self.config.local, self._rate(name), setting.resources.gpus
        if local.gpus is not None:
            return most_processes(recipe, local.gpus, local.nodes)
        if of and of.rate.at_once and of.rate.at_once < recipe.heads.norm_group:
            wanted = max(wanted, recipe.batch // of.rate.at_once)
        return most_processes(recipe, wanted)

    def _on_gpu(self, setting: Setting) -> bool:
        return setting.resources.gpus > 0 and self.config.local.gpus != 0

    def _rate(self, setting: str, share: int | None = None) -> Known | None:
        """Return what a GPU of this machine, or a core, gets done in a second; None if nobody knows."""
        gpu = self._on_gpu(self.config.settings[setting])
        return known_rate(self.config, setting, gpu=gpu, share=share)

    def _setting_of(self, dataset: str) -> str | None:
        """Return the name of a setting of a data set, which knows what its images cost."""
        for name, setting in self.config.settings.items():
            if dataset in (setting.dataset, reference_dataset(self.config, name)):
                return name
        return None

    def _rate_of_dataset(self, dataset: str) -> Known | None:
        setting = self._setting_of(dataset)
        return self._rate(setting) if setting else None

    def snapshot_bytes(self, teacher: str) -> float | None:
        """Return the bytes of a network's weights, which a teacher and its students have alike."""
        setting = self._setting_of(self.config.teachers[teacher].dataset)
        parameters = self.config.settings[setting].resources.parameters if setting else None
        return 4e6 * parameters if parameters else None

    def _run_bytes(self, recipe: Recipe) -> float | None:
        size, kept = self.snapshot_bytes(recipe.teacher), len(recipe.snapshots())
        return None if size is None else size * (min(kept, 3) if recipe.keep == "reported" else kept)


def _rest(of: Known | None) -> str:
    """Return what all rates but that of training are known from."""
    return of.rest if of else UNKNOWN
