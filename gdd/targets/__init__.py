"""What the workflow's rules ask of the configuration: the files of a target, the parameters of a file.

Paths are relative to the project's root. Methods that take `wildcards` take whatever has the named parts of
an output's path as attributes, as Snakemake's wildcards do.
"""

from __future__ import annotations

import os

from gdd.experiments import Experiments
from gdd.targets.external import ExternalTargets
from gdd.targets.inputs import InputTargets
from gdd.targets.report import ReportTargets
from gdd.targets.resources import ResourceTargets
from gdd.targets.runs import RunTargets


class Targets(InputTargets, RunTargets, ExternalTargets, ReportTargets, ResourceTargets):
    """Answers for one configuration."""

    def __init__(self, experiments: Experiments) -> None:
        self.experiments = experiments
        self.config = experiments.config

    def environment(self) -> dict[str, str]:
        """Return the variables that make `gdd` read the configuration that the workflow reads.

        Variables instead of options: where files lie is no reason to make anything again.
        """
        first, *extra = map(str, self.config.roots)
        return {"GDD_CONFIG": first, "GDD_EXTRA": os.pathsep.join(extra)}
