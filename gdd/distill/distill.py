"""From a teacher and a recipe to a trained one-step generator."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from gdd.adversary.backbones import load_backbones
from gdd.adversary.discriminator import ProjectedDiscriminator, build_discriminator
from gdd.adversary.published_weights import load_class_embedding
from gdd.config.architecture import Architecture
from gdd.config.freeze import frozen_names
from gdd.config.recipe import Recipe
from gdd.data.image_array import ImageArray
from gdd.distill.at_once import images_at_once
from gdd.distill.generate import HASHES
from gdd.distill.graphs import Graphs
from gdd.distill.instance import TWO_TIMES, build_instance_loss
from gdd.distill.student import Student
from gdd.errors import UserError
from gdd.files import read_json, sha256, write_json
from gdd.networks.checkpoint import load_denoiser
from gdd.networks.preconditioning import Denoiser, OneStepGenerator, TwoTimeGenerator
from gdd.provenance import environment
from gdd.randomness import derived_seed, seeded_weights
from gdd.training.log import peak_memory
from gdd.training.loop import Monitor, Trained, train
from gdd.training.run_directory import own_run
from gdd.training.world import ALONE, PLAIN, Execution, World, join

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """The files a run starts from; those that its recipe does not need may be left out."""

    teacher: Path
    data: Path
    backbones: Mapping[str, Path]
    pairs: Path | None = None
    lpips: Path | None = None  # torchvision's VGG-16, for objectives that measure with LPIPS
    class_embedding: Path | None = None  # StyleGAN-XL's table

    def hashes(self, data: ImageArray) -> dict[str, str]:
        """Return the content hash of every input; they decide the weights as the recipe does.

        Raises:
            UserError: a file is missing.
        """
        files = {
            "teacher": self.teacher,
            **{f"backbone {name}": path for name, path in self.backbones.items()},
            "pairs": self.pairs,
            "VGG of LPIPS": self.lpips,
            "class embedding": self.class_embedding,
        }
        given = {name: path for name, path in files.items() if path}
        for name, path in given.items():
            if not path.is_file():
                raise UserError(f"The {name} {path} does not exist; make it first or correct the path.")
        return {"data": data.sha256} | {name: sha256(path) for name, path in given.items()}


class GeneratorMonitor(Protocol):
    """Measures the average while it is trained, in the main process, without an effect on the run."""

    every: int | None  # images between two measurements; None is the snapshots' interval

    def open(self, data: ImageArray, device: torch.device) -> dict[str, Any]:
        """Get ready before the training begins; return what the run's record says, as plain JSON values."""
        ...

    def measure(
        self, generator: OneStepGenerator, interrupted: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Return numbers by name; None once `interrupted` has said so."""
        ...


def distill(
    folder: Path,
    recipe: Recipe,
    seed: int,
    inputs: Inputs,
    *,
    checkpoint_every: int | None = None,
    execution: Execution = PLAIN,
    monitor: GeneratorMonitor | None = None,
) -> None:
    """Train a student in `folder` and publish run.json, log.jsonl, snapshots/ and samples/ there.

    The same call resumes an interrupted run, also with another number of processes. Started by `torchrun`, it
    is called in every process.

    `checkpoint_every` is in images; None is the snapshots' interval, at most a tenth of the run. `monitor`
    has no part in what the run is: with another one, or none, the same run goes on.

    Raises:
        UserError: an input is missing or does not fit the recipe, or the machine does not fit the recipe.
        Stopped: somebody asked for a stop.
        DivergedError: there has been no finite loss for `execution.patience` steps.
        ProcessLost: another process of the run has ended.
    """
    data = ImageArray.open(inputs.data)
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(join(execution.device, tf32=execution.tf32))
        hashes = inputs.hashes(data) if world.main else {}
        fingerprint = f"{recipe.fingerprint()}-{seed}-" + "-".join(value[:8] for value in hashes.values())
        run = stack.enter_context(own_run(folder, fingerprint)) if world.main else None
        if not world.broadcast(bool(run and run.finished)):
            session = world.describe()
            if world.device.type == "cuda":
                session["cuda_graphs"] = execution.cuda_graphs
            if run and monitor:
                session["monitor"] = monitor.open(data, world.device)
            sessions = _note_session(run.state / "sessions.json", session) if run else []
            student = prepare(recipe, seed, inputs, data, folder / "state", world=world, execution=execution)
            trained = train(
                student,
                run,
                name="/".join(folder.parts[-3:]),
                total=recipe.images,
                snapshots=recipe.snapshots(),
                checkpoint_every=checkpoint_every or min(recipe.snapshot_every, max(recipe.images // 10, 1)),
                world=world,
                patience=execution.patience,
                monitor=_of_average(monitor, student) if monitor else None,
            )
            if run:
                facts = _facts(recipe, seed, hashes, student, trained)
                known = {"snapshots": read_json(run.state / HASHES), "sessions": sessions}
                write_json(run.state / "run.json", facts | known)
                run.finish()
        if run:
            run.publish(["snapshots", "samples", "log.jsonl", "run.json"])


def _note_session(path: Path, execution: dict[str, Any]) -> list[dict[str, Any]]:
    """Add this start's code and machine to the list of all starts."""
    sessions: list[dict[str, Any]] = read_json(path, list) if path.exists() else []
    sessions.append({**environment(), **execution})
    write_json(path, sessions)
    return sessions


def _of_average(monitor: GeneratorMonitor, student: Student) -> Monitor:
    """Return what measures a student's average while it is trained."""

    def measure(interrupted: Callable[[], bool]) -> dict[str, float] | None:
        if student.graphs:
            student.graphs.release()
        return monitor.measure(student.average, interrupted)

    return Monitor(monitor.every or student.recipe.snapshot_every, measure)


def _facts(
    recipe: Recipe, seed: int, inputs: dict[str, str], student: Student, trained: Trained
) -> dict[str, Any]:
    """Return what run.json says of a run that has ended."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe.fingerprint(),
        "seed": seed,
        "inputs": inputs,
        **_parameters(student.generator),
        "images": student.images,
        "images_at_once": student.images_at_once,
        "seconds": round(trained.seconds, 1),
        "device_seconds": round(trained.device_seconds, 1),
        "nonfinite_steps": trained.nonfinite_steps,
        "peak_memory_mib": round(peak_memory()),
    }


def _parameters(generator: nn.Module) -> dict[str, Any]:
    """Return how many parameters there are and are trained, and the names of the frozen ones."""
    frozen = {name: value.numel() for name, value in generator.named_parameters() if not value.requires_grad}
    total, still = sum(value.numel() for value in generator.parameters()), sum(frozen.values())
    return {"parameters": {"total": total, "trainable": total - still, "frozen": still}, "frozen": [*frozen]}


def prepare(
    recipe: Recipe,
    seed: int,
    inputs: Inputs,
    data: ImageArray,
    state: Path,
    *,
    world: World = ALONE,
    execution: Execution = PLAIN,
) -> Student:
    """Return the student as it stands before its first step.

    Raises:
        UserError: an input is missing or does not fit the recipe, or the machine does not.
    """
    teacher = load_denoiser(inputs.teacher)
    if (teacher.arch.img_channels, teacher.arch.img_resolution) != data.shape[:2]:
        raise UserError(
            f"The teacher {inputs.teacher} makes {teacher.arch.img_channels}-channel images of "
            f"{teacher.arch.img_resolution} pixels, the data set '{data.name}' holds {data.shape[0]} of "
            f"{data.shape[1]}; choose a teacher of this data set."
        )
    generator = _initial_generator(recipe, teacher, seed)
    freeze(generator, recipe.freeze)
    discriminator = _discriminator(recipe, seed, inputs, teacher)
    teacher.to(world.device)  # for the instance-based loss
    instance = build_instance_loss(
        recipe.objective, recipe.teacher_sampler, teacher, seed, inputs.pairs, inputs.lpips
    )
    student = Student(recipe, generator, discriminator, instance, data, seed, state, world=world)
    student.images_at_once = images_at_once(student, execution.images_at_once)
    if execution.cuda_graphs:
        student.graphs = _graphs(student)
    return student


def _graphs(student: Student) -> Graphs | None:
    """Return graphs for a student's passes; None where they hold more than a GPU computes by itself."""
    obstacles = {
        "there is no GPU": student.world.device.type != "cuda",
        "there is no discriminator": student.discriminator is None,
        "an instance-based objective draws on the CPU": student.instance is not None,
        "augmentation draws on the CPU": student.augmentation is not None,
        "processes share groups of images": student.layout.span > 1,
    }
    for obstacle in (name for name, there in obstacles.items() if there):
        log.info("The step does without CUDA graphs: %s.", obstacle)
        return None
    return Graphs(["generator", "discriminator", *["R1"] * bool(student.recipe.r1.gamma)])


def _kind(recipe: Recipe) -> type[OneStepGenerator]:
    return TwoTimeGenerator if recipe.objective.instance in TWO_TIMES else OneStepGenerator


def _initial_generator(recipe: Recipe, teacher: Denoiser, seed: int) -> OneStepGenerator:
    dtype, kind = getattr(torch, recipe.precision), _kind(recipe)
    with seeded_weights(derived_seed(seed, "generator weights")):
        if recipe.init == "teacher":
            generator = kind.from_denoiser(teacher, dtype, steps=recipe.generator_steps)
        else:
            generator = kind(teacher.arch, dtype, steps=recipe.generator_steps)
    generator.renoise = recipe.renoise
    return generator


def check_freeze(recipe: Recipe, arch: Architecture) -> None:
    """Refuse, before anything is made, a freeze policy that does not fit a student of this architecture.

    Raises:
        UserError: a pattern matches no parameter, or nothing is left to train.
    """
    with torch.device("meta"):
        freeze(_kind(recipe)(arch), recipe.freeze)


def freeze(network: nn.Module, policy: str | tuple[str, ...]) -> None:
    """Let exactly the parameters that `policy` does not freeze require gradients.

    Raises:
        UserError: a pattern matches no parameter, or nothing is left to train.
    """
    parameters = dict(network.named_parameters())
    frozen = frozen_names(parameters, policy)
    if len(frozen) == len(parameters):
        raise UserError("The recipe's 'freeze' leaves nothing to train; except some names with '!'.")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in frozen)


def _discriminator(
    recipe: Recipe, seed: int, inputs: Inputs, teacher: Denoiser
) -> ProjectedDiscriminator | None:
    if recipe.objective.distributional is None:
        return None
    seed, classes, embedding = derived_seed(seed, "discriminator"), teacher.arch.label_dim, None
    if classes and recipe.heads.class_embedding == "stylegan-xl":
        assert inputs.class_embedding
        embedding = load_class_embedding(inputs.class_embedding, classes)
    backbones = load_backbones(
        recipe.backbones,
        inputs.backbones,
        teacher,
        seed,
        recipe.backbone_statistics,
        recipe.heads.projections,
    )
    return build_discriminator(backbones, recipe.heads, seed, classes, embedding)
