"""A folder of YAML files as one typed, cross-checked configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from gdd.config.config import Config, Named
from gdd.config.local import Local, load_local
from gdd.config.record import Record, parse, read_yaml
from gdd.config.records import Dataset, External, FeatureNetwork, Setting, Teacher
from gdd.config.sources import Source, Sources, load_sources
from gdd.config.tables import Ablation, Method, Project, Reported, ReportedNumbers
from gdd.errors import UserError
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

# Names become parts of paths and of run ids, which join them with dots.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")


def load_config(folder: str | Path = "config", extra: Iterable[str | Path] = ()) -> Config:
    """Read `folder/config.yaml` and the records in the sub-folders of `folder` and of each `extra`.

    Raises:
        UserError: a file is missing or wrong, two files define one name, or a name is unknown.
    """
    files: dict[tuple[str, str], Path] = {}
    records = {kind: Named(f"{kind}/") for kind in KINDS}
    roots = (Path(folder), *map(Path, extra))
    for root in roots:
        if not root.is_dir():
            raise UserError(f"The configuration folder {root} does not exist.")
        if not any((root / kind).is_dir() for kind in KINDS):
            raise UserError(f"The configuration folder {root} has none of the folders {', '.join(KINDS)}.")
        for kind, record in KINDS.items():
            for path in sorted((root / kind).glob("*.y*ml")):
                if path.suffix != ".yaml" or not NAME.fullmatch(path.stem):
                    raise UserError(
                        f"{path}: the file's name has to be letters, digits, '_', '+' and '-', then '.yaml'."
                    )
                if (kind, path.stem) in files:
                    raise UserError(f"{path}: '{path.stem}' is already defined by {files[kind, path.stem]}.")
                files[kind, path.stem] = path
                records[kind][path.stem] = parse(record, read_yaml(path), path)
    project_file = Path(folder) / "config.yaml"
    project = parse(Project, read_yaml(project_file), project_file)
    config = Config(
        project=project,
        reported=_reported(roots),
        sources=load_all_sources(roots),
        local=load_local(Path(folder)),
        files=files,
        roots=roots,
        **records,
    )
    config.check()
    return config


def load_all_sources(roots: Iterable[Path]) -> Mapping[str, Source]:
    """Read the `sources.yaml` of each folder that has one.

    Raises:
        UserError: one is wrong, or a name stands in two of them.
    """
    sources = Named("sources.yaml")
    for root in roots:
        if not (root / "sources.yaml").is_file():
            continue
        for name, source in load_sources(root).items():
            if name in sources:
                raise UserError(f"{root}/sources.yaml: another sources.yaml has a '{name}' already.")
            twin = next((other for other, of in sources.items() if of.path == source.path), None)
            if twin is not None:
                raise UserError(
                    f"{root}/sources.yaml: '{name}' has the path of '{twin}', {source.path}; give it another."
                )
            sources[name] = source
    return sources


def _reported(roots: Iterable[Path]) -> tuple[Reported, ...]:
    found: list[Reported] = []
    for root in roots:
        path = root / "reported.yaml"
        if path.is_file():
            found += parse(ReportedNumbers, read_yaml(path), path).reported
    return tuple(found)


def write_schemas(folder: Path) -> list[Path]:
    """Write one JSON schema per kind of file, for editors and for review."""
    written = []
    for name, record in SCHEMAS.items():
        path = folder / f"{name}.json"
        write_text(path, json.dumps(record.model_json_schema(), indent=2, sort_keys=True) + "\n")
        written.append(path)
    return written
