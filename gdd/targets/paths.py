"""Where the workflow's files lie, relative to the project's root."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from gdd.experiments import Experiments

FIGURE_ENDINGS = ("png", "pdf")
TABLE_ENDINGS = ("csv", "md", "tex", "json")
CHOICE_ENDINGS = ("yaml", "md")
FETCHED = Path("results/fetched")  # notes of what was fetched


def figure_kinds(experiments: Experiments, name: str) -> list[str]:
    """Return which figures an ablation has: `curve`, `spread` over several runs, `samples`.

    A grid has too many rows for a picture of each.
    """
    ablation = experiments.config.ablations[name]
    several = any(len(row.runs) > 1 for row in experiments.rows(name))
    asked = {"curve": ablation.curve is not None, "spread": several, "samples": not ablation.grid}
    return [kind for kind, wanted in asked.items() if wanted]


def reference_distances(experiments: Experiments, name: str) -> list[str]:
    """Return how far a table's references lie from published ones, below `results/`, where there are any."""
    config = experiments.config
    files = []
    for setting in (config.settings[of] for of in config.ablations[name].setting_names()):
        dataset = setting.evaluation.dataset or setting.dataset
        if config.datasets[dataset].statistics and setting.evaluation.extractor == "inception":
            files.append(f"references/{dataset}/{setting.evaluation.extractor}-published.json")
    return list(dict.fromkeys(files))


def fetched(name: str) -> str:
    """Return the note that a file of sources.yaml was fetched: small, and equal whenever the file is."""
    return str(FETCHED / f"{name}.json")


def alternatives(names: Iterable[str]) -> str:
    """Return a pattern that matches these names and nothing else."""
    return "|".join(map(re.escape, names)) or "(?!)"


def dataset_file(name: str) -> str:
    """Return the small file that holds a data set's hash, and changes only when the images or labels do."""
    return f"results/datasets/{name}/identity.json"
