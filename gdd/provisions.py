"""What has to come from outside before a run can start: files to fetch, and data sets only the user has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from gdd.config.external import External
from gdd.config.load import Config
from gdd.config.local import Local
from gdd.config.records import Dataset
from gdd.config.sources import Source
from gdd.data.expected import archives_above, what_is_expected
from gdd.errors import UserError

RESOURCES = Path("resources")


def resource(config: Config, name: str) -> str:
    """Return where the file `name` of sources.yaml lies once it is fetched."""
    source: Source = config.sources[name]
    return str(RESOURCES / source.path)


def raw_path(
    name: str, dataset: Dataset, local: Local, sources: Mapping[str, Source], resources: Path = RESOURCES
) -> Path | None:
    """Return where the raw data of the data set `name` lies; None where nobody said so.

    What local.yaml says comes before what is fetched.
    """
    key = dataset.raw or name
    if key in local.raw_data:
        return Path(local.raw_data[key]).expanduser()
    return resources / sources[key].path if key in sources else None


def raw_source(config: Config, name: str) -> str | None:
    """Return the file of sources.yaml that a data set is made from; None where the user has the data."""
    key = config.datasets[name].raw or name
    return key if key in config.sources and key not in config.local.raw_data else None


def external_path(
    name: str,
    setting: str,
    external: External,
    local: Local,
    sources: Mapping[str, Source],
    resources: Path = RESOURCES,
) -> Path | None:
    """Return where what others published for a setting lies; None where nobody said so.

    What local.yaml says comes before what is fetched.
    """
    if setting in local.external.get(name, {}):
        return Path(local.external[name][setting]).expanduser()
    published = external.settings[setting].published
    return resources / sources[published].path if published else None


def external_source(config: Config, name: str, setting: str) -> str | None:
    """Return the file of sources.yaml that others' work is fetched from; None where the user has it."""
    own = setting in config.local.external.get(name, {})
    return None if own else config.external[name].settings[setting].published


def require_provisions(
    config: Config,
    fetches: Iterable[str],
    datasets: Iterable[str],
    resources: Path = RESOURCES,
    *,
    noted: Iterable[str] = (),
    external: Iterable[tuple[str, str]] = (),
) -> None:
    """Refuse to start while something is missing that no rule can bring.

    Args:
        config: the whole configuration.
        fetches: names of the files of sources.yaml that are going to be fetched.
        datasets: names of the data sets that are going to be prepared.
        resources: the folder of fetched files.
        noted: names of the files of sources.yaml that were fetched before.
        external: what others published that is going to be read: its name, and the setting that judges it.

    Raises:
        UserError: the complete list of what to put where.
    """
    problems = [
        *_missing_data(config, datasets),
        *_missing_external(config, external),
        *(_missing_files(config, fetches, resources) if config.local.offline else []),
        *_lost_files(config, noted, resources),
    ]
    if problems:
        raise UserError("\n".join(["Nothing was started, because something is missing.", *problems]))


def _missing_data(config: Config, datasets: Iterable[str]) -> list[str]:
    lines: dict[str, str] = {}
    for name in sorted(datasets):
        dataset = config.datasets[name]
        if dataset.source == "digits" or raw_source(config, name):
            continue
        path, key = raw_path(name, dataset, config.local, config.sources), dataset.raw or name
        if path is None:
            lines[key] = f"  {key}: {what_is_expected(dataset)}"
        elif not any(place.exists() for place in (path, *archives_above(path))):
            lines[key] = f"  {key}: {path} does not exist; expected is {what_is_expected(dataset)}"
        elif path.is_dir() and not any(path.iterdir()):
            lines[key] = f"  {key}: {path} is empty; expected is {what_is_expected(dataset)}"
    heading = f"Data sets: in {config.roots[0]}/local.yaml, `raw_data` has to say where each lies."
    return [heading, *lines.values()] if lines else []


def _missing_external(config: Config, wanted: Iterable[tuple[str, str]]) -> list[str]:
    lines = []
    for name, setting in sorted(wanted):
        record = config.external[name]
        if external_source(config, name, setting):
            continue
        path = external_path(name, setting, record, config.local, config.sources)
        if path is None or not path.exists():
            what = {"generator": "its network", "images": "its images as an .npz, a folder, a .zip or a .tar"}
            found = f"{path} does not exist; expected is " if path else ""
            where = record.settings[setting].where
            told = f" ({where})" if where else ""
            lines.append(f"  {name}: {setting}: {found}{what[record.holds]}{told}")
    heading = f"Published by others: in {config.roots[0]}/local.yaml, `external` has to say where each lies."
    return [heading, *lines] if lines else []


def _lost_files(config: Config, noted: Iterable[str], folder: Path) -> list[str]:
    lost = [name for name in sorted(noted) if not (folder / config.sources[name].path).is_file()]
    lines = [
        f"  {folder / config.sources[name].path}: put it back, or delete results/fetched/{name}.json"
        for name in lost
    ]
    return ["Files that were fetched and are gone:", *lines] if lines else []


def _missing_files(config: Config, fetches: Iterable[str], folder: Path) -> list[str]:
    from gdd.fetch.fetch import Resources, missing_message

    resources = Resources(folder, config.local)
    missing = {}
    for name in sorted(fetches):
        source = config.sources[name]
        place = resources.place(source)
        mirrored = isinstance(place, Path) and place.is_file()
        # Only looked for: reading gigabytes to verify them is the fetching job's business.
        if not (folder / source.path).is_file() and not mirrored:
            missing[name] = source
    return [missing_message(missing, folder)] if missing else []
