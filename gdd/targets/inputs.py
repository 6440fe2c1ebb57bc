"""What the rules ask about data sets, feature networks and teachers, and about what comes from outside."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gdd.config.load import Config
from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.provisions import raw_source, require_provisions, resource
from gdd.targets.external import external_read
from gdd.targets.paths import FETCHED, alternatives, dataset_file, fetched


class InputTargets:
    """Answers about what runs start from."""

    experiments: Experiments
    config: Config

    # What comes from outside

    def require_provisions(self, jobs: Iterable[Any]) -> None:
        """Refuse to start jobs whose files or data can come from nowhere.

        Raises:
            UserError: the complete list of what to put where.
        """
        wanted: dict[str, set[str]] = {"fetch": set(), "dataset": set()}
        noted: set[str] = set()
        external: set[tuple[str, str]] = set()
        for job in jobs:
            if job.rule.name in wanted:
                wanted[job.rule.name].add(job.wildcards[0])
            external |= external_read(self.config, job)
            noted |= {Path(file).stem for file in job.input if Path(file).parent == FETCHED}
        require_provisions(
            self.config,
            wanted["fetch"],
            wanted["dataset"],
            noted=noted - wanted["fetch"],
            external=external,
        )

    def source_record(self, wildcards: Any) -> str:
        """Return where a file comes from and what it has to be, as JSON; its use may be reworded."""
        source = self.config.sources[wildcards.name]
        return source.model_copy(update={"use": ""}).canonical()

    def dataset_fetched(self, wildcards: Any) -> list[str]:
        """Return the note of the file a data set is made from, if it is fetched."""
        name = raw_source(self.config, wildcards.dataset)
        return [fetched(name)] if name else []

    def statistics_fetched(self, wildcards: Any) -> str:
        """Return the note of a data set's published statistics."""
        return fetched(self._statistics(wildcards.dataset))

    def statistics(self, wildcards: Any) -> str:
        """Return the file of a data set's published statistics."""
        return resource(self.config, self._statistics(wildcards.dataset))

    def _statistics(self, dataset: str) -> str:
        name = self.config.datasets[dataset].statistics
        if name is None:
            raise UserError(f"The data set '{dataset}' names no published 'statistics'.")
        return name

    # Data sets, feature networks, teachers

    def dataset_record(self, wildcards: Any) -> str:
        """Return as JSON the part of a data set's record that decides its images."""
        record = self.config.datasets[wildcards.dataset]
        no_matter = {"title": "", "licence": "", "raw": None, "statistics": None}
        return record.model_copy(update=no_matter).canonical()

    def dataset_threads(self, wildcards: Any) -> int:
        """Return how many processes convert images; Snakemake allots no more than it has."""
        return 8 if self.config.datasets[wildcards.dataset].source == "folder" else 1

    def features_record(self, wildcards: Any) -> str:
        """Return a feature network's record as JSON, its title aside, which must not cost a training."""
        return self.config.features[wildcards.name].model_copy(update={"title": ""}).canonical()

    def features_data(self, wildcards: Any) -> str:
        """Return the data set a feature network is trained on."""
        return dataset_file(self.config.features[wildcards.name].dataset)

    def teacher_record(self, wildcards: Any) -> str:
        """Return a teacher's record as JSON, its title aside, which must not cost a training."""
        return self.config.teachers[wildcards.teacher].model_copy(update={"title": ""}).canonical()

    def published_teachers(self) -> str:
        """Return a pattern of the names of the teachers that others published."""
        return alternatives(name for name, of in self.config.teachers.items() if of.published)

    def trained_teachers(self) -> str:
        """Return a pattern of the names of the teachers that are trained here."""
        return alternatives(name for name, of in self.config.teachers.items() if of.training)

    def teacher_fetched(self, wildcards: Any) -> str:
        """Return the note of a published teacher's file."""
        return fetched(self._published(wildcards.teacher))

    def teacher_source(self, wildcards: Any) -> str:
        """Return a published teacher's file."""
        return resource(self.config, self._published(wildcards.teacher))

    def teacher_licence(self, wildcards: Any) -> str:
        """Return the licence of a published teacher."""
        licence: str = self.config.sources[self._published(wildcards.teacher)].licence
        return licence

    def _published(self, teacher: str) -> str:
        return self.config.teachers[teacher].published or ""

    def teacher_data(self, wildcards: Any) -> str:
        """Return the data set a teacher is trained on."""
        return dataset_file(self.config.teachers[wildcards.teacher].dataset)
