"""What the rules ask about what others published."""

from __future__ import annotations

from typing import Any

from gdd.config.external import External
from gdd.config.load import Config
from gdd.experiments import Experiments, external_folder
from gdd.provisions import external_source
from gdd.targets.paths import fetched


def external_read(config: Config, job: Any) -> set[tuple[str, str]]:
    """Return what others published that a job of the workflow reads: its name and its setting."""
    if job.rule.name not in ("import_external", "evaluate_external"):
        return set()
    name, setting = job.wildcards.external, job.wildcards.setting
    # A generator is judged once it is imported.
    reads = job.rule.name == "import_external" or config.external[name].holds == "images"
    return {(name, setting)} if reads else set()


class ExternalTargets:
    """Answers about others' generators and images."""

    experiments: Experiments
    config: Config

    def external_record(self, wildcards: Any) -> str:
        """Return as JSON what decides how others' work is read."""
        record: External = self.config.external[wildcards.external]
        own = record.settings[wildcards.setting].model_copy(update={"where": ""})
        told = {"title": "", "settings": {wildcards.setting: own}}
        return record.model_copy(update=told).canonical()

    def external_fetched(self, wildcards: Any) -> list[str]:
        """Return the note of the file that others' work is fetched from, if it is."""
        name = external_source(self.config, wildcards.external, wildcards.setting)
        return [fetched(name)] if name else []

    def external_read(self, wildcards: Any) -> list[str]:
        """Return what is watched of what is judged: an imported generator's identity, or a fetched file's."""
        if self.config.external[wildcards.external].holds == "images":
            return self.external_fetched(wildcards)
        return [f"{self._folder(wildcards)}/model.json"]

    def external_weights(self, wildcards: Any) -> list[str]:
        """Return the weights of an imported generator; nothing where there are images."""
        if self.config.external[wildcards.external].holds == "images":
            return []
        return [f"{self._folder(wildcards)}/model.safetensors"]

    def external_blocks(self, wildcards: Any) -> str:
        """Return the folder whose files show how far the evaluation of others' work got, a block each."""
        return self._folder(wildcards)

    def _folder(self, wildcards: Any) -> str:
        return f"results/{external_folder(wildcards.external, wildcards.setting)}"
