"""All records of a configuration together, and whether they fit each other."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdd.config.local import Local
from gdd.config.metrics import METRICS, PIXELS
from gdd.config.pretrained import EXTRACTORS
from gdd.config.records import Dataset, External, FeatureNetwork, Setting, Teacher
from gdd.config.sources import Source
from gdd.config.tables import Ablation, Method, Project, Reported
from gdd.errors import UserError


class Named(dict[str, Any]):
    """Things by name; asking for one that does not exist is the user's mistake, and the sentence says so."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __missing__(self, name: str) -> Any:
        raise UserError(f"There is no '{name}' in {self.kind}; there are: {', '.join(self)}.")


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
    reported: tuple[Reported, ...]
    sources: Mapping[str, Source]
    local: Local
    files: Mapping[tuple[str, str], Path]
    roots: tuple[Path, ...]  # the folders all this was read from, the one with config.yaml first

    def where(self, kind: str, name: str) -> str:
        """Return the file that holds the record, for a message."""
        return str(self.files.get((kind, name), f"{kind}/{name}.yaml"))

    def require(self, kind: str, name: str, where: str, key: str, also: Iterable[str] = ()) -> None:
        """Refuse the value of a key that names no record of a kind, and is none of `also`.

        Raises:
            UserError: listing those there are.
        """
        there = [*getattr(self, kind), *also]
        if name not in there:
            raise UserError(
                f"{where}: '{key}' is {name!r}: no such file in {kind}/; there are: {', '.join(there)}."
            )

    def require_source(self, name: str | None, where: str, key: str) -> None:
        if name is not None and name not in self.sources:
            near = difflib.get_close_matches(name, self.sources, n=3) or list(self.sources) or ["none"]
            raise UserError(
                f"{where}: '{key}' is {name!r}: no such file in sources.yaml; there are: {', '.join(near)}."
            )

    def check(self) -> None:
        """Refuse a configuration in which one record names another that does not exist, or a page twice.

        Raises:
            UserError: naming file, key, and what there is.
        """
        checks: tuple[Callable[[Config], None], ...] = (
            _check_data_and_teachers,
            _check_settings,
            _check_external,
            _check_tables,
            _check_targets,
        )
        for check in checks:
            check(self)


def _check_data_and_teachers(config: Config) -> None:
    for kind in ("features", "teachers", "settings"):
        for name, record in getattr(config, kind).items():
            config.require("datasets", record.dataset, config.where(kind, name), "dataset")
    for name, dataset in config.datasets.items():
        config.require_source(dataset.statistics, config.where("datasets", name), "statistics")
    for name, teacher in config.teachers.items():
        config.require_source(teacher.published, config.where("teachers", name), "published")
    raw = {dataset.raw or name for name, dataset in config.datasets.items() if dataset.source != "digits"}
    for name in config.local.raw_data.keys() - raw:
        near = difflib.get_close_matches(name, raw, n=1) or sorted(raw) or ["none"]
        raise UserError(
            f"{config.roots[0]}/local.yaml: 'raw_data.{name}': no data set is made from raw data of that "
            f"name; there are: {', '.join(near)}."
        )


def _check_settings(config: Config) -> None:
    for name, setting in config.settings.items():
        where, evaluation = config.where("settings", name), setting.evaluation
        config.require("teachers", setting.teacher, where, "teacher")
        config.require("features", evaluation.extractor, where, "evaluation.extractor", also=EXTRACTORS)
        if evaluation.dataset is not None:
            config.require("datasets", evaluation.dataset, where, "evaluation.dataset")
            if PIXELS in evaluation.extractors():
                key = "metrics" if evaluation.metrics else "pixels"
                raise UserError(
                    f"{where}: 'evaluation.{key}' compares pixels with the training images, so it cannot "
                    "stand beside 'evaluation.dataset'; leave one out."
                )
        for method in setting.methods:
            config.require("methods", method, where, f"methods.{method}")


def _check_external(config: Config) -> None:
    for name, external in config.external.items():
        where = config.where("external", name)
        for setting, file in external.settings.items():
            config.require("settings", setting, where, "settings")
            config.require_source(file.published, where, f"settings.{setting}.published")
    for name, files in config.local.external.items():
        where = f"{config.roots[0]}/local.yaml"
        config.require("external", name, where, "external")
        there = config.external[name].settings
        for setting in files.keys() - there.keys():
            raise UserError(
                f"{where}: 'external.{name}.{setting}': {config.where('external', name)} has no such "
                f"setting; there are: {', '.join(there)}."
            )


def _check_tables(config: Config) -> None:
    for number in config.reported:
        config.require("settings", number.setting, "reported.yaml", "setting")
        if number.method is not None:
            config.require("methods", number.method, "reported.yaml", "method")
        if number.external is not None:
            config.require("external", number.external, "reported.yaml", "external")
            there = config.external[number.external].settings
            if number.setting not in there:
                raise UserError(
                    f"reported.yaml: '{number.external}' has no file for the setting '{number.setting}'; "
                    f"there are: {', '.join(there)}."
                )
    for name, ablation in config.ablations.items():
        where = config.where("ablations", name)
        for setting in ablation.setting_names():
            config.require("settings", setting, where, "setting" if ablation.setting else "settings")
        computed = {
            metric
            for setting in ablation.setting_names()
            for metric in config.settings[setting].evaluation.wanted()
        }
        claimed = {claim.column: "claims" for claim in ablation.claims}
        for column, key in (claimed | dict.fromkeys(ablation.columns, "columns")).items():
            if column in METRICS and column not in computed:
                raise UserError(
                    f"{where}: '{key}' has {column}, which {', '.join(ablation.setting_names())} does not "
                    "compute; add it to 'evaluation.metrics' there, or leave it out."
                )


def _check_targets(config: Config) -> None:
    file = f"{config.roots[0]}/config.yaml"
    pages: dict[str, str] = {}
    for name, target in config.project.targets.items():
        for table in target.tables:
            config.require("ablations", table, file, f"targets.{name}.tables")
        if name in config.ablations:
            raise UserError(f"{file}: the target '{name}' has the name of an ablation; rename one.")
        if target.page in config.ablations:
            raise UserError(f"{file}: the page '{target.page}' is an ablation's own; rename it.")
        if target.page in pages:
            raise UserError(f"{file}: '{name}' and '{pages[target.page]}' have the same page; rename one.")
        pages[target.page] = name
