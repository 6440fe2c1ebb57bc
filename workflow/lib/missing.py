"""What has to come from outside before anything starts, listed at once and not job by job."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gdd import paths
from gdd.config.config import Config
from gdd.errors import UserError
from gdd.fetch.fetch import Resources, missing_message
from gdd.stages.inputs import external_file, external_path, external_source, raw_path, raw_source, resource


def require_what_is_missing(config: Config, jobs: Iterable[Any]) -> None:
    """Refuse to start jobs of the workflow whose files or data can come from nowhere.

    Raises:
        UserError: the complete list of what to put where.
    """
    fetches: set[str] = set()
    fetched_before: set[str] = set()
    datasets: set[str] = set()
    external: set[tuple[str, str]] = set()
    for job in jobs:
        rule, names = job.rule.name, job.wildcards
        if rule == "fetch":
            fetches.add(names.name)
        elif rule == "dataset":
            datasets.add(names.dataset)
        elif rule == "import_external" or (
            # A generator is evaluated once it is imported.
            rule == "evaluate_external" and config.external[names.external].holds == "images"
        ):
            external.add((names.setting, names.external))
        fetched_before |= {Path(file).stem for file in job.input if Path(file).parent == paths.FETCHED}
    problems = [
        *_data(config, datasets),
        *_external(config, external),
        *(_not_fetched(config, fetches) if config.local.offline else []),
        *_lost(config, fetched_before - fetches),
    ]
    if problems:
        raise UserError("\n".join(["Nothing was started, because something is missing.", *problems]))


def _data(config: Config, names: Iterable[str]) -> list[str]:
    lines: dict[str, str] = {}
    for name in sorted(names):
        dataset = config.datasets[name]
        if dataset.source == "digits" or raw_source(config, name):
            continue
        path, key, expected = raw_path(config, name), dataset.raw or name, dataset.raw_in_words()
        if path is None:
            lines[key] = f"  {key}: {expected}"
        elif not path.exists() and not any(above.is_file() for above in path.parents):  # IN.zip/FOLDER
            lines[key] = f"  {key}: {path} does not exist; expected is {expected}"
        elif path.is_dir() and not any(path.iterdir()):
            lines[key] = f"  {key}: {path} is empty; expected is {expected}"
    heading = f"Data sets: in {config.root}/local.yaml, `raw_data` has to say where each lies."
    return [heading, *lines.values()] if lines else []


def _external(config: Config, wanted: Iterable[tuple[str, str]]) -> list[str]:
    holds = {"generator": "its network", "images": "its images as an .npz, a folder, a .zip or a .tar"}
    lines = []
    for setting, name in sorted(wanted):
        path = external_path(config, setting, name)
        if external_source(config, setting, name) or (path is not None and path.exists()):
            continue
        where = external_file(config, setting, name).where
        missing = f"{path} does not exist; expected is " if path else ""
        hint = f" ({where})" if where else ""
        lines.append(f"  {name}: {setting}: {missing}{holds[config.external[name].holds]}{hint}")
    heading = f"Published by others: in {config.root}/local.yaml, `external` has to say where each lies."
    return [heading, *lines] if lines else []


def _lost(config: Config, names: Iterable[str]) -> list[str]:
    lost = [name for name in sorted(names) if not resource(config, name).is_file()]
    lines = [f"  {resource(config, name)}: put it back, or delete {paths.note(name)}" for name in lost]
    return ["Files that were fetched and are gone:", *lines] if lines else []


def _not_fetched(config: Config, names: Iterable[str]) -> list[str]:
    resources = Resources(paths.RESOURCES, config.local)
    missing = {}
    for name in sorted(names):
        place = resources.place(config.sources[name])
        mirrored = isinstance(place, Path) and place.is_file()
        # Only looked for: reading gigabytes to verify them is the fetching job's business.
        if not resource(config, name).is_file() and not mirrored:
            missing[name] = config.sources[name]
    return [missing_message(missing, paths.RESOURCES)] if missing else []
