"""What rules declare, as functions of wildcards: inputs, the hash of their configuration, resources."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gdd.config.config import load_config
from gdd.config.probed import probe_of
from gdd.errors import UserError, did_you_mean
from gdd.experiments import Experiments
from gdd.stages import STAGES
from gdd.stages.showing import ablation_files
from gdd.stages.stage import Stage
from workflow.lib.needs import Need, Needs

SLACK, SPARE = 1.5, 30  # of a time limit over the estimate: a factor, and minutes

# The folder whose files show a cluster that an interrupted job got further, so that it may be started again.
PROGRESS = {
    "teacher": "results/teachers/{teacher}/state/checkpoints",
    "distill": "results/runs/{setting}/{run}/seed{seed}/state/checkpoints",
    "evaluate_run": "results/runs/{setting}/{run}/seed{seed}/state/evaluation",
    "evaluate_teacher": "results/teachers/{teacher}/metrics",
    "evaluate_external": "results/external/{setting}/{external}",
}


def folders(extra: Any) -> tuple[str, ...]:
    """Return the folders of `--config extra=...`: a list, one, or several as a shell splits them.

    Raises:
        UserError: it cannot be split.
    """
    if isinstance(extra, list | tuple):
        return tuple(map(str, extra))
    text = str(extra or "")
    # Snakemake takes the quotes from around a single folder.
    if text and Path(text).is_dir():
        return (text,)
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UserError(
            f"--config extra={text} cannot be split into folders ({error}); quote each that has spaces."
        ) from None


class Rules:
    """Answers for the configuration in `folder` with the records of the folders in `extra`.

    Raises:
        UserError: it is wrong.
    """

    def __init__(self, folder: str = "config", *extra: str) -> None:
        self.experiments = Experiments(load_config(folder, extra))
        self.config = self.experiments.config
        self.needs = Needs(self.experiments)
        probe_of(self.config.local.card)  # refuses a card that was not probed, before any job asks

    def stage(self, name: str, wildcards: Any) -> Stage:
        return STAGES[name](self.experiments, **dict(wildcards.items()))

    def watched(self, stage: str) -> Callable[[Any], list[str]]:
        """Return the inputs whose change makes a stage's outputs again, as a function of wildcards."""
        return lambda wildcards: self.stage(stage, wildcards).watched

    def present(self, stage: str) -> Callable[[Any], list[str]]:
        """Return the inputs that have to be there, but whose time stamps say nothing."""
        return lambda wildcards: self.stage(stage, wildcards).present

    def hash(self, stage: str) -> Callable[[Any], str]:
        """Return the hash of what decides a stage's outputs."""
        return lambda wildcards: self.stage(stage, wildcards).hash

    # --- resources --------------------------------------------------------------------------------------

    def cores(self, stage: str) -> Callable[[Any], int]:
        return lambda wildcards: self._need(stage, wildcards).cores

    def resources(self, stage: str) -> dict[str, Callable[[Any], Any]]:
        """Return the resources of a stage's jobs; one without a value is none.

        None of them decides a result, and a change of one makes nothing again.
        """
        local = self.config.local

        def on_gpu(value: Any, otherwise: Any = None) -> Callable[[Any], Any]:
            return lambda wildcards: value if self._need(stage, wildcards).gpus else otherwise

        resources: dict[str, Callable[[Any], Any]] = {
            "gpu": lambda wildcards: self._need(stage, wildcards).gpus,
            "nodes": lambda wildcards: self._need(stage, wildcards).nodes,
            "mem_mb": lambda wildcards: self._need(stage, wildcards).memory_mb,
            "runtime": lambda wildcards: self._minutes(self._need(stage, wildcards)),
            "slurm_partition": on_gpu(local.partition, local.cpu_partition or local.partition),
            "slurm_account": lambda _: local.account,
            "gpu_model": on_gpu(local.gpu_model),
        }
        if stage in PROGRESS:
            resources["progress"] = lambda wildcards: PROGRESS[stage].format(**dict(wildcards.items()))
        return resources

    def _need(self, stage: str, wildcards: Any) -> Need:
        return self.needs.of(stage, dict(wildcards.items()))

    def _minutes(self, need: Need) -> int:
        """Return the time limit: the estimate with some slack, up to what local.yaml says a job may last."""
        # What takes seconds by any estimate has the usual limit.
        known = math.ceil(60 * SLACK * need.hours) + SPARE if need.known and need.hours else 0
        return min(max(known, need.minutes), math.ceil(60 * self.config.local.longest_job))

    def refuse_too_few_gpus(self, jobs: Iterable[Any]) -> None:
        """Refuse jobs that train a run on GPUs whose memory holds no part of its batch.

        Raises:
            UserError: there is one.
        """
        for job in jobs:
            if job.rule.name == "distill":
                self.needs.refuse_too_few_gpus(**dict(job.wildcards.items()))

    # --- names ------------------------------------------------------------------------------------------

    def table_names(self) -> str:
        """Return a pattern of the names of all tables, which no other file beside them matches."""
        return "|".join(map(re.escape, self.config.ablations)) or "(?!)"

    def all_files(self, folder: str) -> list[str]:
        """Return the tables or the figures of all targets of config.yaml."""
        names = {name: None for target in self.config.project.targets.values() for name in target.tables}
        files = [file for name in names for file in ablation_files(self.experiments, name)]
        return [file for file in files if file.split("/")[1] == folder]

    def refuse_unknown(self, targets: Iterable[str]) -> None:
        """Refuse a target that is no name of a target here and no file in a folder.

        Raises:
            UserError: there is one.
        """
        known = [*self.config.project.targets, *self.config.ablations, "tables", "figures"]
        for target in targets:
            if target not in known and "/" not in target:
                there = f"{did_you_mean(target, known)}there are: {', '.join(known)}"
                raise UserError(f"There is no target '{target}'; {there}, and files below results/.")

    def no_such_target(self, wildcards: Any) -> None:
        """End Snakemake with a sentence, as the input function of a target that there is not."""
        try:
            self.refuse_unknown([wildcards.target])
        except UserError as error:
            sys.exit(f"gdd: {error}")  # of any other error Snakemake prints a traceback

    def refuse_names_of_rules(self, rules: Iterable[str]) -> None:
        """Refuse an ablation or a target with the name of a rule, which is a target as well.

        Raises:
            UserError: there is one.
        """
        taken = {*self.config.ablations, *self.config.project.targets}.intersection(rules)
        if taken:
            raise UserError(f"'{min(taken)}' cannot name an ablation or a target: a rule has that name.")
