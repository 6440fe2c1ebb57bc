"""What the rules ask about the machine: GPUs, cores, memory and time of a job.

None of it decides a result, and a change of it makes nothing again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gdd.config.load import Config
from gdd.config.local import Local
from gdd.config.recipe import Sampler
from gdd.experiments import Experiments
from gdd.needs import Need, judging_need, pairs_need, reference_need, run_need

SLACK, SPARE = 1.5, 30  # of a time limit over the estimate: a factor, and minutes


@dataclass(frozen=True)
class Asked:
    """What one rule's jobs need, each a function of wildcards as a rule wants it."""

    need: Callable[[Any], Need]
    local: Local
    usual_minutes: int  # the time limit where nobody knows how long it takes, and at least

    def gpu(self, wildcards: Any) -> int:
        """Return the number of GPUs, on all machines together."""
        return self.need(wildcards).gpus

    def nodes(self, wildcards: Any) -> int:
        """Return the number of machines."""
        return self.need(wildcards).nodes

    def cores(self, wildcards: Any) -> int:
        """Return the number of cores on each machine."""
        return self.need(wildcards).cores

    def mem_mb(self, wildcards: Any) -> int:
        """Return the megabytes of main memory on each machine."""
        return self.need(wildcards).memory_mb

    def minutes(self, wildcards: Any) -> int:
        """Return the time limit: the estimate with some slack, up to what local.yaml says a job may last."""
        hours = self.need(wildcards).hours
        known = 0 if hours is None else math.ceil(60 * SLACK * hours) + SPARE
        return min(max(known, self.usual_minutes), math.ceil(60 * self.local.longest_job))

    @property
    def cluster(self) -> dict[str, Callable[[Any], str | None]]:
        """What local.yaml says of the cluster; a resource without a value is none."""
        return on_cluster(self.local, self.gpu)


class ResourceTargets:
    """Answers about what jobs need."""

    experiments: Experiments
    config: Config

    @property
    def cluster(self) -> dict[str, Callable[[Any], str | None]]:
        """What local.yaml says of the cluster, for jobs without a GPU."""
        return on_cluster(self.config.local, lambda _: 0)

    @cached_property
    def training(self) -> Asked:
        """What training a run needs."""

        def need(wildcards: Any) -> Need:
            recipe = self.experiments.find(wildcards.setting, wildcards.run)
            return run_need(self.config, self.config.settings[wildcards.setting], recipe)

        return Asked(need, self.config.local, 120)

    @cached_property
    def judging(self) -> Asked:
        """What judging a run needs, a teacher at some number of steps, or what others published."""

        def need(wildcards: Any) -> Need:
            setting = self.config.settings[wildcards.setting]
            if hasattr(wildcards, "steps"):
                return judging_need(self.config, setting, Sampler(steps=int(wildcards.steps)))
            if hasattr(wildcards, "external"):
                return judging_need(self.config, setting, Sampler(steps=1))  # at most one evaluation
            recipe = self.experiments.find(wildcards.setting, wildcards.run)
            return judging_need(self.config, setting, recipe)

        return Asked(need, self.config.local, 60)

    @cached_property
    def solving(self) -> Asked:
        """What pairs of noise and image need."""

        def need(wildcards: Any) -> Need:
            return pairs_need(self.config, wildcards.teacher, int(wildcards.steps), int(wildcards.pairs))

        return Asked(need, self.config.local, 60)

    @cached_property
    def describing(self) -> Asked:
        """What the features of a data set need."""
        return Asked(
            lambda wildcards: reference_need(self.config, wildcards.dataset, wildcards.name),
            self.config.local,
            30,
        )


def on_cluster(local: Local, gpu: Callable[[Any], int]) -> dict[str, Callable[[Any], str | None]]:
    """Return the resources that only a cluster has, by the names that SLURM plugins know."""
    return {
        "slurm_partition": lambda wildcards: (
            local.partition if gpu(wildcards) else local.cpu_partition or local.partition
        ),
        "slurm_account": lambda _: local.account,
        "gpu_model": lambda wildcards: local.gpu_model if gpu(wildcards) else None,
    }
