"""A folder of YAML files as one typed configuration, whose records fit each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdd.config.local import Local
from gdd.config.metrics import METRICS
from gdd.config.names import NAME, NAME_IN_WORDS, Named
from gdd.config.record import Record, merged, parse, read_yaml
from gdd.config.records import Dataset, External, FeatureNetwork, Setting, Teacher
from gdd.config.sources import Source, Sources
from gdd.config.tables import Ablation, Method, Project, Reported, ReportedNumbers
from gdd.errors import UserError, did_you_mean
from gdd.files import write_text

# Sub-folder -> the record that each of its files holds; the file's stem is the record's name.
KINDS: dict[str, type[Record]] = {
    "datasets": Dataset,
    "features": FeatureNetwork,
    "teachers": Teacher,
    "settings": Setting,
    "methods": Method,
    "external": External,
    "ablations": Ablation,
}
SCHEMAS: dict[str, type[Record]] = {
    **KINDS,
    "config": Project,
    "local": Local,
    "sources": Sources,
    "reported": ReportedNumbers,
}

SCHEMA = "schema"  # the folder beside them in which `gdd schema` writes


@dataclass(frozen=True)
class Config:
    """Every record by name, and the file each came from (for messages)."""

    project: Project
    datasets: Mapping[str, Dataset]
    features: Mapping[str, FeatureNetwork]
    teachers: Mapping[str, Teacher]
    settings: Mapping[str, Setting]
    methods: Mapping[str, Method]
    external: Mapping[str, External]
    ablations: Mapping[str, Ablation]
    sources: Mapping[str, Source]
    reported: tuple[Reported, ...]
    local: Local
    known: Mapping[str, Named]  # by kind: the file of each record by name
    root: Path  # the folder with config.yaml and local.yaml

    def where(self, kind: str, name: str) -> str:
        """Return the file that holds the record, for a message."""
        return str(self.known[kind][name])

    def parse(self, kind: type[Any], data: Any, where: str) -> Any:
        """Return a record whose names are those of this configuration; see `gdd.config.record.parse`."""
        return parse(kind, data, where, self.known)


def load_config(folder: str | Path = "config", extra: Iterable[str | Path] = ()) -> Config:
    """Read `folder/config.yaml` and the records in the sub-folders of `folder` and of each `extra`.

    Raises:
        UserError: a file is missing or wrong, two files define one name, or a name is unknown.
    """
    root, roots = Path(folder), [Path(folder), *map(Path, extra)]
    sources, files = _sources(roots), _files(roots)
    known = {**files, "sources": sources}
    records = {kind: Named(files[kind].place) for kind in KINDS}
    for kind, record in KINDS.items():
        for name, path in files[kind].items():
            data = _whole_setting(path, files[kind]) if record is Setting else read_yaml(path)
            records[kind][name] = parse(record, data, path, known)
    project_file = root / "config.yaml"
    project = parse(Project, read_yaml(project_file), project_file, known)
    reported: list[Reported] = []
    for path in (place / "reported.yaml" for place in roots):
        if path.is_file():
            reported += parse(ReportedNumbers, read_yaml(path), path, known).reported
    config = Config(
        project=project,
        sources=sources,
        reported=tuple(reported),
        local=_local(root / "local.yaml", known, records["datasets"]),
        known=known,
        root=root,
        **records,
    )
    _check_networks(config)
    _check_tables(config)
    return config


def _whole_setting(path: Path, settings: Mapping[str, Path]) -> Any:
    """Read a setting, laid over the one that it is `like`."""
    data = read_yaml(path)
    like = data.get("like") if isinstance(data, dict) else None
    if not isinstance(like, str) or like not in settings:
        return data  # what is wrong with the name is said when it is checked
    base = read_yaml(settings[like])
    if not isinstance(base, dict):
        return data
    if "like" in base:
        raise UserError(f"{path}: 'like' is '{like}', which is like '{base['like']}' itself; name that one.")
    return merged(base, data)


def _files(roots: Iterable[Path]) -> dict[str, Named]:
    """Return the files of every kind of record by name."""
    files = {kind: Named(f"{kind}/") for kind in KINDS}
    for root in roots:
        if not root.is_dir():
            raise UserError(f"The configuration folder {root} does not exist.")
        if not any((root / kind).is_dir() for kind in KINDS):
            raise UserError(f"The configuration folder {root} has none of the folders {', '.join(KINDS)}.")
        for folder in sorted(root.iterdir()):
            if folder.is_dir() and folder.name not in (*KINDS, SCHEMA) and not folder.name.startswith("."):
                raise UserError(
                    f"{folder} is none of the folders of a configuration; {did_you_mean(folder.name, KINDS)}"
                    f"there are: {', '.join(KINDS)}."
                )
        for kind in KINDS:
            for path in sorted((root / kind).glob("*.y*ml")):
                # Run ids join names with dots.
                if path.suffix != ".yaml" or not re.fullmatch(NAME, path.stem) or "." in path.stem:
                    raise UserError(
                        f"{path}: the file's name has to be {NAME_IN_WORDS}, no '.' among them, then '.yaml'."
                    )
                if path.stem in files[kind]:
                    raise UserError(f"{path}: '{path.stem}' is already defined by {files[kind][path.stem]}.")
                files[kind][path.stem] = path
    return files


def _sources(roots: Iterable[Path]) -> Named:
    """Read the `sources.yaml` of each folder that has one."""
    sources = Named("sources.yaml")
    for path in (root / "sources.yaml" for root in roots):
        found = parse(Sources, read_yaml(path), path).sources if path.is_file() else {}
        for name, source in found.items():
            if name in sources:
                raise UserError(f"{path}: another sources.yaml has a '{name}' already.")
            for twin, of in sources.items():
                if of.path == source.path:
                    raise UserError(f"{path}: '{twin}' and '{name}' have the same path, {source.path}.")
            sources[name] = source
    return sources


def _local(path: Path, known: Mapping[str, Named], datasets: Mapping[str, Dataset]) -> Local:
    """Read local.yaml; without one, or with an empty one, nothing is known of this machine."""
    data = read_yaml(path) if path.exists() else None
    raw = Named("the raw data of datasets/")
    raw |= {of.raw or name: None for name, of in datasets.items() if of.source != "digits"}
    return Local() if data is None else parse(Local, data, path, {**known, "raw_data": raw})


def _check_networks(config: Config) -> None:
    """Refuse a classifier of images that all have the same label, or none."""
    for name, network in config.features.items():
        classes = config.datasets[network.dataset].classes
        if network.steps and classes < 2:
            raise UserError(
                f"{config.where('features', name)}: a classifier is trained on two classes or more, "
                f"'{network.dataset}' has {classes or 'none'}; set 'steps' to 0, which keeps random weights."
            )


def _check_tables(config: Config) -> None:
    """Refuse columns that nothing computes, and targets that get in the way of a table's own."""
    for name, ablation in config.ablations.items():
        settings = ablation.setting_names()
        computed = {metric for of in settings for metric in config.settings[of].evaluation.wanted()}
        claimed = {claim.column: "claims" for claim in ablation.claims}
        for column, key in (claimed | dict.fromkeys(ablation.columns, "columns")).items():
            if column in METRICS and column not in computed:
                raise UserError(
                    f"{config.where('ablations', name)}: '{key}' has {column}, which {', '.join(settings)} "
                    "does not compute; add it to 'evaluation.metrics' there, or leave it out."
                )
    for name, target in config.project.targets.items():
        for taken in {name, target.page} & config.ablations.keys():
            raise UserError(
                f"{config.where('ablations', taken)}: '{taken}' is the name of a target or page in "
                f"{config.root}/config.yaml; give the file another one."
            )


def write_schemas(folder: Path) -> list[Path]:
    """Write one JSON schema per kind of file, for editors and for review."""
    paths = [folder / f"{name}.json" for name in SCHEMAS]
    for path in paths:
        schema = SCHEMAS[path.stem].model_json_schema()
        write_text(path, json.dumps(schema, indent=2, sort_keys=True) + "\n")
    return paths
