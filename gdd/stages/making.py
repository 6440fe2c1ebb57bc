"""The stages up to a trained student: data sets, references, teachers, pairs, runs."""

from __future__ import annotations

from gdd import paths
from gdd.config.names import CLASS_EMBEDDINGS, LPIPS, TEACHER_ENCODER
from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.stages.inputs import (
    dataset_input,
    extractor_inputs,
    fetched,
    model_input,
    network_input,
    raw_source,
    reference_dataset,
)
from gdd.stages.stage import Input, Stage, plain


def fetch(of: Experiments, name: str) -> Stage:
    return Stage(f"the file {name}", plain(of.config.sources[name], use=""))


def dataset(of: Experiments, dataset: str) -> Stage:
    record = of.config.datasets[dataset]
    source = raw_source(of.config, dataset)
    inputs = {"raw": fetched(of.config, source)} if source else {}
    decides = plain(record, title="", licence="", raw=None, statistics=None)
    return Stage(f"the data set {dataset}", decides, inputs)


def features(of: Experiments, name: str) -> Stage:
    """A small feature network."""
    record = of.config.features[name]
    return Stage(
        f"the feature network {name}", plain(record, title=""), {"data": dataset_input(record.dataset)}
    )


def reference(of: Experiments, dataset: str, extractor: str) -> Stage:
    """The features of a data set that generated images are compared with."""
    inputs = {"data": dataset_input(dataset), **extractor_inputs(of.config, [extractor])}
    return Stage(f"the reference of {dataset} by {extractor}", extractor, inputs)


def distance(of: Experiments, dataset: str, extractor: str) -> Stage:
    """How far a reference lies from the statistics that others published."""
    statistics = of.config.datasets[dataset].statistics
    if statistics is None:
        raise UserError(f"The data set '{dataset}' names no published 'statistics'.")
    file = str(paths.reference_file(dataset, extractor))
    inputs = {"reference": Input(file, (file,)), "published": fetched(of.config, statistics)}
    return Stage(f"the distance of {dataset} by {extractor}", statistics, inputs)


def teacher(of: Experiments, teacher: str) -> Stage:
    """A teacher, imported or trained."""
    record = of.config.teachers[teacher]
    title, decides = f"the teacher {teacher}", plain(record, title="")
    if record.published is None:
        return Stage(title, decides, {"data": dataset_input(record.dataset)})
    decides["licence"] = of.config.sources[record.published].licence
    return Stage(title, decides, {"source": fetched(of.config, record.published)})


def pairs(of: Experiments, teacher: str, steps: str | int, pairs: str | int) -> Stage:  # noqa: ARG001
    """Noise and the image that the teacher's ODE gives for it."""
    inputs = {"teacher": model_input(paths.teacher_folder(teacher))}
    return Stage(f"the pairs of {teacher}", [int(steps), int(pairs)], inputs)


def distill(of: Experiments, setting: str, run: str, seed: str | int) -> Stage:
    """The training of one student."""
    config, recipe = of.config, of.find(setting, run)
    inputs = {
        "data": dataset_input(recipe.dataset),
        "teacher": model_input(paths.teacher_folder(recipe.teacher)),
    }
    if recipe.objective.distributional:
        for name in recipe.backbones:
            if name != TEACHER_ENCODER:
                inputs[f"backbone {name}"] = network_input(config, name)
        conditional = config.teachers[recipe.teacher].architecture.label_dim
        if conditional and recipe.heads.class_embedding != "random":
            inputs["embedding"] = fetched(config, CLASS_EMBEDDINGS[recipe.heads.class_embedding])
    if recipe.objective.distance == "lpips":
        inputs["lpips"] = fetched(config, LPIPS)
    if recipe.objective.instance == "direct" and recipe.objective.pairs:
        steps = recipe.teacher_sampler.steps
        file = str(paths.pairs_file(recipe.teacher, steps, recipe.objective.pairs))
        inputs["pairs"] = Input(file, present=(file,))  # decided by the teacher and by its own name
    if config.settings[setting].monitor:  # which changes nothing but the log
        extractor = config.settings[setting].evaluation.extractor
        network = network_input(config, extractor)
        file = str(paths.reference_file(reference_dataset(config, setting), extractor))
        inputs["monitor extractor"] = Input(network.path, present=network.watched)
        inputs["monitor reference"] = Input(file, present=(file,))
    return Stage(f"the run {setting}/{run}", {"recipe": plain(recipe), "seed": int(seed)}, inputs)
