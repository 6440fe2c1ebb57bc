"""What each kind of job needs of a machine, and how long it takes: pure functions of the configuration.

Nothing here changes a number that is reported. Nothing imports torch, so a workflow loads it in no time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gdd.config.load import Config
from gdd.config.metrics import PIXELS
from gdd.config.pretrained import EXTRACTORS
from gdd.config.recipe import Recipe, Sampler
from gdd.config.records import Setting
from gdd.config.resources import CPU, Rate
from gdd.training.layout import most_processes

CORES = 2  # beside each GPU: one drives it, one reads ahead
JUDGING_CORES = 4  # what is left for a CPU beside a GPU's features: eigenvalues, copies
HOUR = 3600.0
# Of a network that judges, beside Inception, whose rate is known: by multiplications, 81 G to 5.7 G.
COST = {"dinov2": 14}


@dataclass(frozen=True)
class Need:
    """What a job needs: GPUs in all, cores and megabytes on each machine; its hours, None if nobody knows.

    `stretch` is the longest it goes without saving what it did, in hours, where that may be long.
    """

    gpus: int
    cores: int
    memory_mb: int
    hours: float | None
    rate: Rate | None = None  # that the hours come from
    nodes: int = 1
    stretch: float = 0.0


def run_need(config: Config, setting: Setting, recipe: Recipe) -> Need:
    """Return what a training run needs."""
    gpus, nodes, rate = run_gpus(config, setting, recipe), 1, rate_of(config, setting)
    if gpus > 1:
        nodes = config.local.nodes
    here = max(gpus // nodes, 1)
    hours = recipe.images / (rate.training * max(gpus, 1)) / HOUR if rate else None
    memory = math.ceil(1000 * setting.resources.memory * here)
    return Need(gpus, CORES * here if gpus else 1, memory, hours, rate, nodes)


def run_gpus(config: Config, setting: Setting, recipe: Recipe) -> int:
    """Return the GPUs of a run: as many as can share the batch, and enough that a part fits into each.

    Where local.yaml says how many, it knows.
    """
    if not on_gpu(config, setting):
        return 0
    local, rate = config.local, rate_of(config, setting)
    if local.gpus is not None:
        return most_processes(recipe, local.gpus, local.nodes)
    wanted = setting.resources.gpus
    group = recipe.heads.norm_group
    if rate and rate.at_once and rate.at_once < group:
        wanted = max(wanted, recipe.batch // rate.at_once)
    return most_processes(recipe, wanted)


def on_gpu(config: Config, setting: Setting) -> bool:
    """Return whether jobs of the setting compute on a GPU."""
    return setting.resources.gpus > 0 and config.local.gpus != 0


def rate_of(config: Config, setting: Setting) -> Rate | None:
    """Return what a GPU of this machine, or a core, gets done in a second; None if nobody knows."""
    return setting.resources.rates.get(config.local.card if on_gpu(config, setting) else CPU)


def judging_need(config: Config, setting: Setting, of: Recipe | Sampler) -> Need:
    """Return what judging a run needs, or the teacher with a sampler."""
    evaluation = setting.evaluation
    if isinstance(of, Sampler):
        curve, blocks, evaluations = 0, evaluation.blocks, of.evaluations
    else:
        recipe, evaluations = of, of.generator_steps
        also = len([count for count in evaluation.also_at if count in recipe.snapshots()[:-1]])
        # The whole curve on one block; the end, the best and what else is asked for on all, but for the best
        # all of them known beforehand, so that their first block is the curve's.
        curve, blocks = len(recipe.snapshots()) - 1 - also, evaluation.blocks * (2 + also)
    rate = rate_of(config, setting)
    hours, stretch = None, 0.0
    if rate:
        looks = sum(COST.get(name, 1) for name in evaluation.extractors() if name != PIXELS)
        generating = evaluations / rate.generating
        stretch = evaluation.samples * (generating + looks / rate.judging) / HOUR  # a block is judged at once
        hours = blocks * stretch + evaluation.samples * curve * (generating + 1 / rate.judging) / HOUR
    # 50,000 x 2048 features, twice, in float64.
    memory = 12_000 if EXTRACTORS.keys() & evaluation.extractors() else 2000
    gpus = int(on_gpu(config, setting))
    return Need(gpus, JUDGING_CORES if gpus else 1, memory, hours, rate, stretch=stretch)


def pairs_need(config: Config, teacher: str, steps: int, count: int) -> Need:
    """Return what solving the teacher's ODE needs."""
    setting = setting_of(config, config.teachers[teacher].dataset)
    rate = rate_of(config, setting) if setting else None
    hours = count * Sampler(steps=steps).evaluations / rate.generating / HOUR if rate else None
    gpus = int(on_gpu(config, setting)) if setting else 0
    return Need(gpus, CORES if gpus else 1, 8000 if gpus else 2000, hours, rate, stretch=hours or 0.0)


def reference_need(config: Config, dataset: str, extractor: str) -> Need:
    """Return what the features of a data set need."""
    if extractor not in EXTRACTORS:
        return Need(0, 1, 2000, None)
    setting = setting_of(config, dataset)
    rate = rate_of(config, setting) if setting else None
    looked = config.datasets[dataset].images * COST.get(extractor, 1)
    hours = looked / rate.judging / HOUR if rate else None
    gpus = int(config.local.gpus != 0)
    return Need(gpus, JUDGING_CORES if gpus else 1, 12_000, hours, rate, stretch=hours or 0.0)


def setting_of(config: Config, dataset: str) -> Setting | None:
    """Return a setting of a data set, which knows what its images cost."""
    settings = config.settings.values()
    names = ((setting, (setting.dataset, setting.evaluation.dataset)) for setting in settings)
    return next((setting for setting, datasets in names if dataset in datasets), None)
