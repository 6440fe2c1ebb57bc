"""The stages that evaluate: runs, teachers, and what others published."""

from __future__ import annotations

from typing import Any

from gdd import paths
from gdd.config.records import Setting
from gdd.experiments import Experiments
from gdd.stages.inputs import (
    dataset_input,
    external_file,
    external_source,
    extractor_inputs,
    fetched,
    model_input,
    reference_dataset,
)
from gdd.stages.stage import Input, Stage, plain


def evaluate_run(of: Experiments, setting: str, run: str, seed: str | int) -> Stage:
    folder = paths.run_folder(setting, run, seed)
    inputs = {"run": Input(str(folder), (f"{folder}/run.json", f"{folder}/snapshots"))}
    decides = plain(of.config.settings[setting].evaluation)
    return Stage(f"the evaluation of {setting}/{run}", decides, inputs | _evaluating(of, setting))


def evaluate_teacher(of: Experiments, setting: str, teacher: str, steps: str | int) -> Stage:
    record: Setting = of.config.settings[setting]
    sampler = record.teacher_sampler.model_copy(update={"steps": int(steps)})
    decides = {"sampler": plain(sampler), "evaluation": _without_snapshots(record)}
    inputs = {"teacher": model_input(paths.teacher_folder(teacher)), **_evaluating(of, setting)}
    return Stage(f"the evaluation of the teacher {teacher}", decides, inputs)


def import_external(of: Experiments, setting: str, external: str) -> Stage:
    """A generator that others published, imported."""
    source = external_source(of.config, setting, external)
    decides = {
        "record": _external(of, setting, external),
        "dataset": reference_dataset(of.config, setting),
    }
    inputs = {"source": fetched(of.config, source)} if source else {}
    return Stage(f"{external} for {setting}", decides, inputs)


def evaluate_external(of: Experiments, setting: str, external: str) -> Stage:
    inputs: dict[str, Input] = {}
    if of.config.external[external].holds == "generator":
        inputs["generator"] = model_input(paths.external_folder(setting, external))
    elif source := external_source(of.config, setting, external):
        inputs["images"] = fetched(of.config, source)  # images of the user's own are not watched
    decides = {
        "record": _external(of, setting, external),
        "evaluation": _without_snapshots(of.config.settings[setting]),
    }
    return Stage(f"the evaluation of {external} for {setting}", decides, inputs | _evaluating(of, setting))


def _without_snapshots(setting: Setting) -> Any:
    return plain(setting.evaluation, also_at=())


def _external(of: Experiments, setting: str, name: str) -> Any:
    file = external_file(of.config, setting, name).model_copy(update={"where": ""})
    return plain(of.config.external[name], title="", settings={setting: file})


def _evaluating(of: Experiments, setting: str) -> dict[str, Input]:
    """Return what every evaluation of a setting reads besides."""
    dataset = reference_dataset(of.config, setting)
    extractors = of.config.settings[setting].evaluation.extractors()
    references = [paths.reference_file(dataset, name) for name in extractors]
    return {
        "data": dataset_input(dataset),
        **extractor_inputs(of.config, extractors),
        # Decided by the data set and the extractors, which are watched.
        "references": Input(str(references[0].parent), present=tuple(map(str, references))),
    }
