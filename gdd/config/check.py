"""Whether the records of a configuration fit each other."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdd.config.metrics import METRICS, PIXELS
from gdd.config.pretrained import EXTRACTORS
from gdd.errors import UserError

if TYPE_CHECKING:
    from gdd.config.load import Config

# The names of the workflow's rules, which are targets too (a test compares them with the rule files).
RULES = {
    "choice",
    "curve_figure",
    "dataset",
    "distill",
    "evaluate_external",
    "evaluate_run",
    "evaluate_teacher",
    "feature_network",
    "fetch",
    "figures",
    "import_external",
    "import_teacher",
    "page",
    "pairs",
    "pixel_reference",
    "reference",
    "reference_distance",
    "samples_figure",
    "spread_figure",
    "table",
    "tables",
    "teacher",
}


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


def check_config(config: Config, project_file: Path) -> None:
    """Refuse a configuration in which one record names another that does not exist, or a page twice.

    Raises:
        UserError: naming file, key, and what there is.
    """
    _check_data_and_teachers(config)
    _check_settings(config)
    _check_external(config)
    _check_tables(config)
    _check_targets(config, project_file)


def _check_data_and_teachers(config: Config) -> None:
    for kind in ("features", "teachers", "settings"):
        for name, record in getattr(config, kind).items():
            known(config, "datasets", record.dataset, config.where(kind, name), "dataset")
    for name, dataset in config.datasets.items():
        if dataset.statistics is not None:
            _known_source(config, dataset.statistics, config.where("datasets", name), "statistics")
    raw = {dataset.raw or name for name, dataset in config.datasets.items() if dataset.source != "digits"}
    for name in config.local.raw_data:
        if name not in raw:
            near = difflib.get_close_matches(name, raw, n=1) or sorted(raw) or ["none"]
            raise UserError(
                f"{config.roots[0]}/local.yaml: 'raw_data.{name}': no data set is made from raw data of that "
                f"name; there are: {', '.join(near)}."
            )
    for name, teacher in config.teachers.items():
        if teacher.published is not None:
            _known_source(config, teacher.published, config.where("teachers", name), "published")


def _check_settings(config: Config) -> None:
    for name, setting in config.settings.items():
        where = config.where("settings", name)
        known(config, "teachers", setting.teacher, where, "teacher")
        extractor = setting.evaluation.extractor
        known(config, "features", extractor, where, "evaluation.extractor", also=tuple(EXTRACTORS))
        if setting.evaluation.dataset is not None:
            known(config, "datasets", setting.evaluation.dataset, where, "evaluation.dataset")
            if PIXELS in setting.evaluation.extractors():
                key = "metrics" if setting.evaluation.metrics else "pixels"
                raise UserError(
                    f"{where}: 'evaluation.{key}' compares pixels with the training images', so it cannot "
                    "stand beside 'evaluation.dataset'; leave one out."
                )
        for method in setting.methods:
            known(config, "methods", method, where, f"methods.{method}")


def _check_external(config: Config) -> None:
    for name, external in config.external.items():
        where = config.where("external", name)
        for setting, file in external.settings.items():
            known(config, "settings", setting, where, "settings")
            if file.published is not None:
                _known_source(config, file.published, where, f"settings.{setting}.published")
    for name, files in config.local.external.items():
        where, its_file = f"{config.roots[0]}/local.yaml", config.where("external", name)
        external = known(config, "external", name, where, "external")
        for setting in files.keys() - external.settings.keys():
            raise UserError(
                f"{where}: 'external.{name}.{setting}': {its_file} has no such setting; there are: "
                f"{', '.join(external.settings)}."
            )


def _check_tables(config: Config) -> None:
    for number in config.reported:
        known(config, "settings", number.setting, "reported.yaml", "setting")
        if number.method is not None:
            known(config, "methods", number.method, "reported.yaml", "method")
        if number.external is not None:
            external = known(config, "external", number.external, "reported.yaml", "external")
            if number.setting not in external.settings:
                raise UserError(
                    f"reported.yaml: '{number.external}' has no file for the setting '{number.setting}'; "
                    f"there are: {', '.join(external.settings)}."
                )
    for name, ablation in config.ablations.items():
        for setting_name in ablation.setting_names():
            key = "setting" if ablation.setting else "settings"
            known(config, "settings", setting_name, config.where("ablations", name), key)
        _check_columns(config, name)


def _check_columns(config: Config, ablation: str) -> None:
    """Refuse a column that would be empty because no setting of the table judges by it."""
    where, settings = config.where("ablations", ablation), config.ablations[ablation].setting_names()
    judged = {metric for name in settings for metric in config.settings[name].evaluation.wanted()}
    for column in config.ablations[ablation].columns:
        if column in METRICS and column not in judged:
            raise UserError(
                f"{where}: 'columns' has {column}, by which {', '.join(settings)} is not judged; "
                "add it to 'evaluation.metrics' there, or leave it out."
            )


def _known_source(config: Config, name: str, where: str, key: str) -> None:
    if name not in config.sources:
        near = difflib.get_close_matches(name, config.sources, n=3) or list(config.sources) or ["none"]
        raise UserError(
            f"{where}: '{key}' is {name!r}: no such file in sources.yaml; there are: {', '.join(near)}."
        )


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
