"""How long a job takes and what it leaves on disk: from what finished runs took, else from the settings."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from gdd.config.pretrained import EXTRACTORS
from gdd.config.recipe import Recipe
from gdd.config.resources import Rate
from gdd.needs import Need, setting_of
from gdd.plan.rules import Job
from gdd.targets import Targets

HOUR = 3600.0
UNKNOWN = "unknown"
MEASURED = "measured here"

# Features that an extractor gives an image.
FEATURES = {"inception": 2048, "inception-clean": 2048, "clip": 512, "dinov2": 1024}
PREPARED = 240.0  # image files a second and core: benchmarks/preparation.py, JPEGs as ImageNet has them
SMALL_IMAGES = 5000.0  # images a second out of one file
TEACHER_STEPS = 3.0  # a teacher's steps are faster than a student's, which has a discriminator: on the digits
# Seconds of what is small everywhere, as the demo took them on a busy core.
SECONDS = {
    "feature_network": 15.0,
    "pixel_reference": 5.0,
    "import_teacher": 30.0,
    "import_external": 30.0,
    "reference_distance": 10.0,
    **dict.fromkeys(("table", "choice", "page"), 2.0),
    **dict.fromkeys(("curve_figure", "spread_figure", "samples_figure"), 8.0),
}


@dataclass(frozen=True)
class Cost:
    """What a job takes. None is what nobody knows; `known` says what hours come from, if they count.

    `stretch` is the longest it goes without saving what it did, in hours, where that may be long.
    """

    gpus: int = 0
    hours: float | None = 0.0
    known: str = ""
    disk: float | None = 0.0  # bytes that stay
    stretch: float = 0.0

    @property
    def gpu_hours(self) -> float | None:
        """Hours times GPUs."""
        return None if self.hours is None else self.gpus * self.hours


class Costs:
    """Answers for one configuration and one folder of results."""

    def __init__(self, targets: Targets, results: Path) -> None:
        self.targets = targets
        self.config = targets.config
        self.results = results

    def of(self, job: Job) -> Cost:
        """Return what a job takes."""
        ask: Callable[[Any], Cost] | None = getattr(self, f"_{job.rule}", None)
        if ask is not None:
            return ask(job.wildcards)
        return Cost(hours=SECONDS.get(job.rule, 0.0) / HOUR)

    # --- one method a rule that matters -----------------------------------------------------------------

    def _fetch(self, wildcards: Any) -> Cost:
        return Cost(disk=self.config.sources[wildcards.name].bytes)  # how long, the line decides

    def _dataset(self, wildcards: Any) -> Cost:
        dataset = self.config.datasets[wildcards.dataset]
        images = dataset.source_images or dataset.images
        files = dataset.source == "folder"
        rate = PREPARED * self.targets.dataset_threads(wildcards) if files else SMALL_IMAGES
        size = dataset.channels * dataset.resolution**2 + 8
        return Cost(
            hours=images / rate / HOUR, known="estimated" if files else "", disk=dataset.images * size
        )

    def _teacher(self, wildcards: Any) -> Cost:
        teacher = self.config.teachers[wildcards.teacher]
        setting = setting_of(self.config, teacher.dataset)
        rate = setting.resources.rates.get("cpu") if setting else None
        disk = self._snapshot(wildcards.teacher)
        if rate is None or teacher.training is None:
            return Cost(hours=None, known=UNKNOWN, disk=disk)
        hours = teacher.training.images / (TEACHER_STEPS * rate.training) / HOUR
        return Cost(hours=hours, known=_known(rate, training=True), disk=disk)

    def _import_teacher(self, wildcards: Any) -> Cost:
        return Cost(hours=SECONDS["import_teacher"] / HOUR, disk=self._snapshot(wildcards.teacher))

    def _pairs(self, wildcards: Any) -> Cost:
        dataset = self.config.datasets[self.config.teachers[wildcards.teacher].dataset]
        size = 2 * 4 * int(wildcards.pairs) * dataset.channels * dataset.resolution**2
        return _cost(self.targets.solving.need(wildcards), size)

    def _reference(self, wildcards: Any) -> Cost:
        if wildcards.name not in EXTRACTORS:
            return Cost(hours=SECONDS["pixel_reference"] / HOUR)
        width = FEATURES[wildcards.name]
        kept = min(self.config.datasets[wildcards.dataset].images, 50_000)
        return _cost(self.targets.describing.need(wildcards), 4 * kept * width + 8 * width**2)

    def _distill(self, wildcards: Any) -> Cost:
        recipe = self.targets.recipe(wildcards)
        need = self.targets.training.need(wildcards)
        disk = self._run_disk(recipe)
        for key in ((wildcards.setting, wildcards.run), wildcards.setting):
            rates = self._training_rates.get((key, need.gpus > 0))
            if rates:
                hours = recipe.images / (mean(rates) * max(need.gpus, 1)) / HOUR
                return Cost(need.gpus, hours, MEASURED, disk)
        return _cost(need, disk, training=True)

    def _evaluate_run(self, wildcards: Any) -> Cost:
        need = self.targets.judging.need(wildcards)
        seconds = self._judging_seconds.get((wildcards.setting, need.gpus > 0))
        return Cost(need.gpus, mean(seconds) / HOUR, MEASURED) if seconds else _cost(need, 0)

    def _evaluate_teacher(self, wildcards: Any) -> Cost:
        return _cost(self.targets.judging.need(wildcards), 0)

    _evaluate_external = _evaluate_teacher

    # --- what is known ----------------------------------------------------------------------------------

    @cached_property
    def _training_rates(self) -> dict[tuple[Any, bool], list[float]]:
        """Images a second and device of finished runs, by (setting, run) and by setting, on a GPU or not."""
        rates: dict[tuple[Any, bool], list[float]] = defaultdict(list)
        for path in sorted(self.results.glob("runs/*/*/seed*/run.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
                facts = json.loads(path.read_text(encoding="utf-8"))
                seconds = facts.get("device_seconds") or facts["seconds"]
                on_gpu = not str(facts["sessions"][-1]["device"]).startswith("CPU")
                if seconds > 0:
                    setting, run = path.parts[-4:-2]
                    for key in ((setting, run), setting):
                        rates[key, on_gpu].append(facts["images"] / seconds)
        return rates

    @cached_property
    def _judging_seconds(self) -> dict[tuple[str, bool], list[float]]:
        """Seconds that judging took in finished runs, by setting, on a GPU or not."""
        found: dict[tuple[str, bool], list[float]] = defaultdict(list)
        for path in sorted(self.results.glob("runs/*/*/seed*/metrics.json")):
            with contextlib.suppress(OSError, ValueError, KeyError):
                facts = json.loads(path.read_text(encoding="utf-8"))
                on_gpu = not str(facts["provenance"]["device"]).startswith("CPU")
                found[path.parts[-4], on_gpu].append(facts["seconds"])
        return found

    def checkpoints(self, recipe: Recipe) -> float | None:
        """Return the bytes that a run holds besides while it is trained: two checkpoints.

        Each has the weights, their average, Adam's two moments, and about as much again of the discriminator.
        """
        size = self._snapshot(recipe.teacher)
        return None if size is None else 2 * 5 * size

    def _run_disk(self, recipe: Recipe) -> float | None:
        size = self._snapshot(recipe.teacher)
        kept = len(recipe.snapshots())
        return None if size is None else size * (min(kept, 3) if recipe.keep == "reported" else kept)

    def _snapshot(self, teacher: str) -> float | None:
        """Return the bytes of a network's weights, which teacher and students have alike."""
        path = self.results / "teachers" / teacher / "model.safetensors"
        if path.exists():
            return path.stat().st_size
        setting = setting_of(self.config, self.config.teachers[teacher].dataset)
        return 4e6 * setting.resources.parameters if setting and setting.resources.parameters else None


def _cost(need: Need, disk: float | None, *, training: bool = False) -> Cost:
    known = _known(need.rate, training=training) if need.rate else UNKNOWN
    return Cost(need.gpus, need.hours, known, disk, need.stretch)


def _known(rate: Rate, *, training: bool) -> str:
    if rate.known == "measured":
        return "measured elsewhere"
    return rate.known if training else "estimated"  # others report nothing but their training
