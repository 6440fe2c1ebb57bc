"""Where files lie, relative to the project's root. `results/README.md` describes the layout."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path("results")
RESOURCES = Path("resources")  # what is fetched
FETCHED = RESULTS / "fetched"  # a note with the hash of each file below resources/
SITE = RESULTS / "site"

TABLE_ENDINGS = ("csv", "md", "tex", "json")
CHOICE_ENDINGS = ("yaml", "md")
FIGURE_ENDINGS = ("png", "pdf")


def note(source: str) -> Path:
    """Return the note that a file of sources.yaml was fetched: small, and equal whenever the file is."""
    return FETCHED / f"{source}.json"


def dataset_folder(dataset: str) -> Path:
    return RESULTS / "datasets" / dataset


def network_file(name: str) -> Path:
    """Return the weights of a small feature network that is made here."""
    return RESULTS / "features" / f"{name}.safetensors"


def reference_file(dataset: str, extractor: str) -> Path:
    return RESULTS / "references" / dataset / f"{extractor}.npz"


def distance_file(dataset: str, extractor: str) -> Path:
    """Return the distance of a reference to the statistics that others published."""
    return RESULTS / "references" / dataset / f"{extractor}-published.json"


def teacher_folder(teacher: str) -> Path:
    return RESULTS / "teachers" / teacher


def teacher_metrics(teacher: str, setting: str, steps: int | str) -> Path:
    return teacher_folder(teacher) / "metrics" / f"{setting}-steps{steps}.json"


def teacher_samples(teacher: str, setting: str, steps: int | str) -> Path:
    return teacher_folder(teacher) / "samples" / f"{setting}-steps{steps}.npz"


def pairs_file(teacher: str, steps: int | str, count: int | str) -> Path:
    return RESULTS / "pairs" / teacher / f"steps{steps}-{count}.safetensors"


def run_folder(setting: str, run: str, seed: int | str) -> Path:
    return RESULTS / "runs" / setting / run / f"seed{seed}"


def external_folder(setting: str, name: str) -> Path:
    return RESULTS / "external" / setting / name


def table_files(name: str) -> list[Path]:
    return [RESULTS / "tables" / f"{name}.{ending}" for ending in TABLE_ENDINGS]


def choice_files(name: str) -> list[Path]:
    """Return what a table with `choose` chooses, for a setting's file and for reading."""
    return [RESULTS / "tables" / f"{name}-choice.{ending}" for ending in CHOICE_ENDINGS]


def figure_files(name: str, kind: str) -> list[Path]:
    return [RESULTS / "figures" / f"{name}-{kind}.{ending}" for ending in FIGURE_ENDINGS]
