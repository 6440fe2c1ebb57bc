"""A folder of YAML files as one typed, cross-checked configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdd.config.local import Local
from gdd.config.record import Record, RecordT, parse, read_yaml
from gdd.config.records import Ablation, Dataset, FeatureNetwork, Method, Project, Setting, Teacher
from gdd.config.sources import Sources
from gdd.errors import UserError
from gdd.files import write_text

# Sub-folder -> the record that each of its files holds; the file's stem is the record's name.
KINDS: dict[str, type[Record]] = {
    "datasets": Dataset,
    "features": FeatureNetwork,
    "teachers": Teacher,
    "settings": Setting,
    "methods": Method,
    "ablations": Ablation,
}
# The names of the workflow's rules, which are targets too (a test compares them with the rule files).
RULES = {
    "choice",
    "curve_figure",
    "dataset",
    "distill",
    "evaluate_run",
    "evaluate_teacher",
    "feature_network",
    "figures",
    "page",
    "pairs",
    "pixel_reference",
    "reference",
    "samples_figure",
    "spread_figure",
    "table",
    "tables",
    "teacher",
}
SCHEMAS: dict[str, type[Record]] = {**KINDS, "config": Project, "local": Local, "sources": Sources}

# Names become parts of paths and of run ids, which join them with dots.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")


class Named(dict[str, Any]):
    """Things by name; asking for one that does not exist is the user's mistake, and the sentence says so."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __missing__(self, name: str) -> Any:
        raise UserError(f"There is no '{name}' in {self.kind}/; there are: {', '.join(self)}.")


@dataclass(frozen=True)
class Config:
    """Every record by name, and the file each came from (for messages)."""

    project: Project
    datasets: Mapping[str, Dataset]
    features: Mapping[str, FeatureNetwork]
    teachers: Mapping[str, Teacher]
    settings: Mapping[str, Setting]
    methods: Mapping[str, Method]
    ablations: Mapping[str, Ablation]
    files: Mapping[tuple[str, str], Path]
    roots: tuple[Path, ...]  # the folders all this was read from, the one with config.yaml first

    def where(self, kind: str, name: str) -> str:
        """Return the file that holds the record, for a message."""
        return str(self.files.get((kind, name), f"{kind}/{name}.yaml"))


def load_config(folder: str | Path = "config", extra: Iterable[str | Path] = ()) -> Config:
    """Read `folder/config.yaml` and the records in the sub-folders of `folder` and of each `extra`.

    Raises:
        UserError: a file is missing or wrong, two files define one name, or a name is unknown.
    """
    files: dict[tuple[str, str], Path] = {}
    records = {kind: Named(kind) for kind in KINDS}
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
    config = Config(project=project, files=files, roots=roots, **records)
    _check_names(config, project_file)
    return config


def known(config: Config, kind: str, name: str, where: str, key: str, also: tuple[str, ...] = ()) -> Any:
    """Return the record `name` of `kind`; None for one of the names in `also`, which need no file.

    Raises:
        UserError: there is none; the sentence lists those there are.
    """
    records: Mapping[str, Any] = getattr(config, kind)
    if name not in records and name not in also:
        names = ", ".join([*records, *also])
        raise UserError(f"{where}: '{key}' is {name!r}: no such file in {kind}/; there are: {names}.")
    return records.get(name)


def _check_names(config: Config, project_file: Path) -> None:
    for kind in ("features", "teachers", "settings"):
        for name, record in getattr(config, kind).items():
            known(config, "datasets", record.dataset, config.where(kind, name), "dataset")
    for name, setting in config.settings.items():
        where = config.where("settings", name)
        known(config, "teachers", setting.teacher, where, "teacher")
        known(config, "features", setting.evaluation.extractor, where, "evaluation.extractor")
        if setting.evaluation.dataset is not None:
            known(config, "datasets", setting.evaluation.dataset, where, "evaluation.dataset")
            if setting.evaluation.pixels:
                raise UserError(
                    f"{where}: 'evaluation.pixels' compares with the training images, so it cannot stand "
                    "beside 'evaluation.dataset'; leave one out."
                )
        for method in setting.methods:
            known(config, "methods", method, where, f"methods.{method}")
    for name, ablation in config.ablations.items():
        for setting_name in ablation.setting_names():
            key = "setting" if ablation.setting else "settings"
            known(config, "settings", setting_name, config.where("ablations", name), key)
    _check_targets(config, project_file)


def _check_targets(config: Config, project_file: Path) -> None:
    for name in (*config.ablations, *config.project.targets):
        if name in RULES:
            raise UserError(f"'{name}' cannot name an ablation or a target: a rule of the workflow has it.")
    pages: dict[str, str] = {}
    for name, target in config.project.targets.items():
        for table in target.tables:
            known(config, "ablations", table, str(project_file), f"targets.{name}.tables")
        if name in config.ablations:
            raise UserError(f"{project_file}: the target '{name}' has the name of an ablation; rename one.")
        if target.page in config.ablations:
            raise UserError(f"{project_file}: the page '{target.page}' is an ablation's own; rename it.")
        if target.page in pages:
            raise UserError(
                f"{project_file}: '{name}' and '{pages[target.page]}' have the same page; rename one."
            )
        pages[target.page] = name


def write_schemas(folder: Path) -> list[Path]:
    """Write one JSON schema per kind of file, for editors and for review."""
    written = []
    for name, record in SCHEMAS.items():
        path = folder / f"{name}.json"
        write_text(path, json.dumps(record.model_json_schema(), indent=2, sort_keys=True) + "\n")
        written.append(path)
    return written


def parse_record(kind: type[RecordT], text_or_file: str) -> RecordT:
    """Read a record given on the command line: JSON text, or the name of a JSON or YAML file."""
    if text_or_file.lstrip().startswith("{"):
        try:
            return parse(kind, json.loads(text_or_file), "command line")
        except json.JSONDecodeError as error:
            raise UserError(
                f"command line: the {kind.__name__.lower()} is not valid JSON ({error})."
            ) from None
    return parse(kind, read_yaml(Path(text_or_file)), text_or_file)
