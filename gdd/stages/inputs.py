"""What stages read: fetched files, the user's own data, and what other stages make."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gdd import paths
from gdd.config.config import Config
from gdd.config.metrics import PIXELS
from gdd.config.names import BACKBONES, EXTRACTORS
from gdd.config.records import ExternalFile, Setting
from gdd.errors import UserError
from gdd.stages.stage import Input


def resource(config: Config, source: str) -> Path:
    """Return where a file of sources.yaml lies once it is fetched."""
    path: str = config.sources[source].path
    return paths.RESOURCES / path


def fetched(config: Config, source: str) -> Input:
    return Input(str(resource(config, source)), (str(paths.note(source)),))


def stated_sha256(config: Config) -> list[str]:
    """Return the SHA-256 that sources.yaml states: of what may be run, where a file is code."""
    checksums = [source.checksum or "" for source in config.sources.values()]
    return [text.removeprefix("sha256:") for text in checksums if text.startswith("sha256:")]


def raw_source(config: Config, dataset: str) -> str | None:
    """Return the file of sources.yaml that a data set is made from; None where the user has the data."""
    key = config.datasets[dataset].raw or dataset
    return key if key in config.sources and key not in config.local.raw_data else None


def raw_path(config: Config, dataset: str) -> Path | None:
    """Return where the raw data of a data set lies, by local.yaml or else fetched; None if nobody said."""
    key = config.datasets[dataset].raw or dataset
    if key in config.local.raw_data:
        return Path(config.local.raw_data[key]).expanduser()
    return resource(config, key) if key in config.sources else None


def external_file(config: Config, setting: str, name: str) -> ExternalFile:
    """Return what the configuration says of others' work for a setting.

    Raises:
        UserError: there is nothing of it for this setting.
    """
    files: dict[str, ExternalFile] = config.external[name].settings
    if setting not in files:
        raise UserError(f"{name} has no file for the setting '{setting}'; there are: {', '.join(files)}.")
    return files[setting]


def external_source(config: Config, setting: str, name: str) -> str | None:
    """Return the file of sources.yaml that others' work is fetched from; None where the user has it."""
    own = setting in config.local.external.get(name, {})
    return None if own else external_file(config, setting, name).published


def external_path(config: Config, setting: str, name: str) -> Path | None:
    """Return where others' work lies, by local.yaml or else fetched; None if nobody said."""
    own = config.local.external.get(name, {})
    if setting in own:
        return Path(own[setting]).expanduser()
    source = external_source(config, setting, name)
    return resource(config, source) if source else None


def dataset_input(name: str) -> Input:
    """Return a prepared data set; its identity changes only when images or labels do."""
    folder = paths.dataset_folder(name)
    return Input(str(folder), (f"{folder}/identity.json",))


def model_input(folder: Path) -> Input:
    """Return weights, which are watched through the small file that holds their hash."""
    weights = f"{folder}/model.safetensors"
    return Input(weights, (f"{folder}/model.json",), (weights,))


def network_input(config: Config, name: str) -> Input:
    """Return a frozen network: a published one, or a small one that is made here."""
    source = (BACKBONES | EXTRACTORS).get(name)
    if source:
        return fetched(config, source)
    file = str(paths.network_file(name))
    return Input(file, (file,))


def extractor_inputs(config: Config, names: Iterable[str]) -> dict[str, Input]:
    return {f"extractor {name}": network_input(config, name) for name in names if name != PIXELS}


def reference_dataset(config: Config, setting: str) -> str:
    """Return the data set that a setting's generators are compared with."""
    record: Setting = config.settings[setting]
    return record.evaluation.dataset or record.dataset
