"""What the rules ask about runs and their evaluation."""

from __future__ import annotations

from typing import Any

from gdd.config.load import Config
from gdd.config.metrics import PIXELS
from gdd.config.pretrained import BACKBONES, CLASS_EMBEDDINGS, EXTRACTORS, LPIPS
from gdd.config.recipe import TEACHER_ENCODER, Recipe
from gdd.config.records import Setting
from gdd.experiments import Experiments
from gdd.provisions import resource
from gdd.targets.paths import dataset_file, fetched


class RunTargets:
    """Answers about training and judging students."""

    experiments: Experiments
    config: Config

    # Runs

    def recipe(self, wildcards: Any) -> Recipe:
        """Return the recipe of a run."""
        return self.experiments.find(wildcards.setting, wildcards.run)

    def recipe_json(self, wildcards: Any) -> str:
        """Return the recipe of a run as JSON."""
        return self.recipe(wildcards).canonical()

    def run_state(self, wildcards: Any) -> str:
        """Return the folder whose checkpoints show how far a run got, names being image counts."""
        return f"results/runs/{wildcards.setting}/{wildcards.run}/seed{wildcards.seed}/state/checkpoints"

    def teacher_state(self, wildcards: Any) -> str:
        """Return the folder whose checkpoints show how far a teacher's training got."""
        return f"results/teachers/{wildcards.teacher}/state/checkpoints"

    def run_teacher(self, wildcards: Any) -> str:
        """Return the weights a run starts from."""
        return f"results/teachers/{self.recipe(wildcards).teacher}/model.safetensors"

    def run_teacher_identity(self, wildcards: Any) -> str:
        """Return the small file that changes only when the teacher's weights do."""
        return f"results/teachers/{self.recipe(wildcards).teacher}/model.json"

    def run_data(self, wildcards: Any) -> str:
        """Return the data set a run trains on."""
        return dataset_file(self.recipe(wildcards).dataset)

    def run_backbones(self, wildcards: Any) -> list[str]:
        """Return the feature networks that a run's discriminator looks through."""
        return [self._network(name) for name in self._backbones(wildcards)]

    def backbone_options(self, wildcards: Any) -> list[str]:
        """Return the options that tell where those networks' weights lie."""
        return [f"--backbone {name}={self._weights(name)}" for name in self._backbones(wildcards)]

    def run_fetched(self, wildcards: Any) -> list[str]:
        """Return the notes of the other fetched files a run needs."""
        return [fetched(source) for source in self._other_files(wildcards).values()]

    def file_options(self, wildcards: Any) -> list[str]:
        """Return the options that tell where those files lie, and what to measure with on the way."""
        files = self._other_files(wildcards).items()
        options = [f"--{option} {resource(self.config, source)}" for option, source in files]
        return options + self._monitor_options(wildcards)

    def run_monitor(self, wildcards: Any) -> list[str]:
        """Return what a run is measured with while it is trained, if its setting asks for that."""
        if self.setting(wildcards).monitor is None:
            return []
        extractor = self.setting(wildcards).evaluation.extractor
        return [self._network(extractor), f"{self.reference_folder(wildcards)}/{extractor}.npz"]

    def _monitor_options(self, wildcards: Any) -> list[str]:
        monitor = self.setting(wildcards).monitor
        if monitor is None:
            return []
        extractor = self.setting(wildcards).evaluation.extractor
        return [
            f"--monitor-fid {monitor.fid}",
            *([f"--monitor-every {monitor.every}"] if monitor.every else []),
            f"--judge {self._weights(extractor)}",
            f"--judge-reference {self.reference_folder(wildcards)}/{extractor}.npz",
            f"--judge-dataset {self.reference_dataset(wildcards)}",
        ]

    def _other_files(self, wildcards: Any) -> dict[str, str]:
        recipe = self.recipe(wildcards)
        files = {}
        if recipe.objective.distance == "lpips":
            files["lpips"] = LPIPS
        conditional = self.config.teachers[recipe.teacher].architecture.label_dim
        if recipe.objective.distributional and conditional and recipe.heads.class_embedding != "random":
            files["class-embedding"] = CLASS_EMBEDDINGS[recipe.heads.class_embedding]
        return files

    def _backbones(self, wildcards: Any) -> list[str]:
        recipe = self.recipe(wildcards)
        names = recipe.backbones if recipe.objective.distributional else ()
        return [name for name in names if name != TEACHER_ENCODER]

    def _network(self, name: str) -> str:
        """Return what is watched of a feature network: a fetched one's note, a small one's weights."""
        source = (BACKBONES | EXTRACTORS).get(name)
        return fetched(source) if source else f"results/features/{name}.safetensors"

    def _weights(self, name: str) -> str:
        source = (BACKBONES | EXTRACTORS).get(name)
        return resource(self.config, source) if source else f"results/features/{name}.safetensors"

    def run_pairs(self, wildcards: Any) -> list[str]:
        """Return the solved pairs that a run imitates, if it does."""
        recipe = self.recipe(wildcards)
        if recipe.objective.instance != "direct" or recipe.objective.pairs == 0:
            return []
        steps, count = recipe.teacher_sampler.steps, recipe.objective.pairs
        return [f"results/pairs/{recipe.teacher}/steps{steps}-{count}.safetensors"]

    # Evaluation

    def setting(self, wildcards: Any) -> Setting:
        """Return the setting of a file."""
        return self.config.settings[wildcards.setting]

    def evaluation(self, wildcards: Any) -> str:
        """Return how a setting is judged, as JSON."""
        return self.setting(wildcards).evaluation.canonical()

    def teacher_evaluation(self, wildcards: Any) -> str:
        """Return how a setting's teacher is judged, as JSON: it has no snapshots to look at besides."""
        return self.setting(wildcards).evaluation.model_copy(update={"also_at": ()}).canonical()

    def run_blocks(self, wildcards: Any) -> str:
        """Return the folder whose files show how far the evaluation of a run got, a block each."""
        return f"results/runs/{wildcards.setting}/{wildcards.run}/seed{wildcards.seed}/state/evaluation"

    def teacher_blocks(self, wildcards: Any) -> str:
        """Return the folder whose files show how far the evaluation of a teacher got, a block each."""
        return f"results/teachers/{wildcards.teacher}/metrics"

    def reference_data(self, wildcards: Any) -> str:
        """Return the data set that a setting's generators are compared with."""
        return dataset_file(self.reference_dataset(wildcards))

    def reference_dataset(self, wildcards: Any) -> str:
        """Return the name of that data set: the setting's own unless its evaluation names another."""
        setting = self.setting(wildcards)
        return setting.evaluation.dataset or setting.dataset

    def judges(self, wildcards: Any) -> list[str]:
        """Return what is watched of the networks that judge a setting."""
        networks = [self._network(name) for name in self._judging_networks(wildcards)]
        return list(dict.fromkeys(networks))  # two extractors may be one file

    def judge_options(self, wildcards: Any) -> list[str]:
        """Return the options that tell where those networks' weights lie."""
        names = self._judging_networks(wildcards)
        return [f"--extractor {name}={self._weights(name)}" for name in names]

    def _judging_networks(self, wildcards: Any) -> list[str]:
        return [name for name in self.setting(wildcards).evaluation.extractors() if name != PIXELS]

    def reference_judge(self, wildcards: Any) -> str:
        """Return what is watched of the network whose features a reference holds."""
        return self._network(wildcards.name)

    def reference_weights(self, wildcards: Any) -> str:
        """Return the weights of the network whose features a reference holds."""
        return self._weights(wildcards.name)

    def references(self, wildcards: Any) -> list[str]:
        """Return what a setting's generators are compared with: the data set's features in every space."""
        folder = self.reference_folder(wildcards)
        return [f"{folder}/{name}.npz" for name in self.setting(wildcards).evaluation.extractors()]

    def reference_folder(self, wildcards: Any) -> str:
        """Return the folder in which those lie."""
        return f"results/references/{self.reference_dataset(wildcards)}"

    def sampler(self, wildcards: Any) -> str:
        """Return the teacher's sampler at the number of steps in a file's name, as JSON."""
        sampler = self.setting(wildcards).teacher_sampler
        return sampler.model_copy(update={"steps": int(wildcards.steps)}).canonical()
