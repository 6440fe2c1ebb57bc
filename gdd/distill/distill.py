"""From a teacher and a recipe to a trained one-step generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gdd.adversary.backbones import load_backbones
from gdd.adversary.discriminator import ProjectedDiscriminator, build_discriminator
from gdd.config.recipe import Recipe
from gdd.data.image_array import ImageArray
from gdd.diffusion.sampling import load_pairs
from gdd.distill.freeze import freeze
from gdd.distill.objectives import ConsistencyLoss, DirectLoss, InstanceLoss, SolvingDirectLoss
from gdd.distill.student import Student
from gdd.errors import UserError
from gdd.files import read_json, sha256, write_json
from gdd.networks.checkpoint import load_denoiser
from gdd.networks.preconditioning import Denoiser, OneStepGenerator
from gdd.networks.seeded import derived_seed, seeded_weights
from gdd.provenance import environment
from gdd.training.loop import train
from gdd.training.progress import peak_memory
from gdd.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Inputs:
    """The files a run starts from."""

    teacher: Path
    data: Path
    backbones: Mapping[str, Path]
    pairs: Path | None = None

    def hashes(self, data: ImageArray) -> dict[str, str]:
        """Return the content hash of every input; they decide the weights as the recipe does.

        Raises:
            UserError: a file is missing.
        """
        files = {
            "teacher": self.teacher,
            **{f"backbone {name}": path for name, path in self.backbones.items()},
        }
        if self.pairs:
            files["pairs"] = self.pairs
        for name, path in files.items():
            if not path.is_file():
                raise UserError(f"The {name} {path} does not exist; make it first or correct the path.")
        return {"data": data.sha256, **{name: sha256(path) for name, path in files.items()}}


def distill(
    folder: str | Path,
    recipe: Recipe,
    seed: int,
    inputs: Inputs,
    *,
    checkpoint_every: int | None = None,
) -> None:
    """Train a student in `folder` and publish run.json, log.jsonl, snapshots/ and samples/ there.

    The same call resumes an interrupted run.

    Args:
        folder: the run's folder.
        recipe: what to train.
        seed: of every random stream.
        inputs: the files to start from.
        checkpoint_every: images between checkpoints; None is the snapshots' interval, at most a tenth.

    Raises:
        UserError: an input is missing or does not fit the recipe.
        Stopped: somebody asked for a stop.
    """
    folder = Path(folder)
    data = ImageArray.open(inputs.data)
    hashes = inputs.hashes(data)
    fingerprint = f"{recipe.fingerprint()}-{seed}-" + "-".join(value[:8] for value in hashes.values())
    with RunDirectory(folder, fingerprint) as run:
        if not run.finished:
            sessions = _note_session(run.state / "sessions.json")
            student, frozen = prepare(recipe, seed, inputs, data, run.state)
            seconds = train(
                student,
                run,
                name="/".join(folder.parts[-3:]),
                total=recipe.images,
                snapshots=recipe.snapshots(),
                checkpoint_every=checkpoint_every or min(recipe.snapshot_every, max(recipe.images // 10, 1)),
                log_every=max(recipe.images // 100, recipe.batch),
            )
            total = sum(parameter.numel() for parameter in student.generator.parameters())
            trainable = sum(parameter.numel() for parameter in student.trainable)
            facts = {
                "recipe": recipe.model_dump(mode="json"),
                "recipe_hash": recipe.fingerprint(),
                "seed": seed,
                "inputs": hashes,
                "parameters": {"total": total, "trainable": trainable, "frozen": total - trainable},
                "frozen": frozen,
                "images": student.images,
                "seconds": round(seconds, 1),
                "peak_memory_mib": round(peak_memory()),
                "sessions": sessions,
            }
            write_json(run.state / "run.json", facts)
            run.finish()
        run.publish(["snapshots", "samples", "log.jsonl", "run.json"])


def prepare(
    recipe: Recipe, seed: int, inputs: Inputs, data: ImageArray, state: Path
) -> tuple[Student, list[str]]:
    """Return the student as it stands before its first step, and the names of its frozen parameters.

    Raises:
        UserError: an input is missing or does not fit the recipe.
    """
    teacher = load_denoiser(inputs.teacher)
    if (teacher.arch.img_channels, teacher.arch.img_resolution) != data.shape[:2]:
        raise UserError(
            f"The teacher {inputs.teacher} makes {teacher.arch.img_channels}-channel images of "
            f"{teacher.arch.img_resolution} pixels, the data set '{data.name}' holds {data.shape[0]} of "
            f"{data.shape[1]}; choose a teacher of this data set."
        )
    generator = _initial_generator(recipe, teacher, seed)
    frozen = freeze(generator, recipe.freeze)
    if len(frozen) == len(list(generator.parameters())):
        raise UserError("The recipe's 'freeze' leaves nothing to train; except some names with '!'.")
    discriminator = _discriminator(recipe, seed, inputs, teacher)
    instance = _instance_loss(recipe, seed, inputs, teacher)
    return Student(recipe, generator, discriminator, instance, data, seed, state), frozen


def _initial_generator(recipe: Recipe, teacher: Denoiser, seed: int) -> OneStepGenerator:
    dtype = getattr(torch, recipe.precision)
    if recipe.init == "teacher":
        return OneStepGenerator.from_denoiser(teacher, dtype)
    with seeded_weights(derived_seed(seed, "generator weights")):
        return OneStepGenerator(teacher.arch, dtype)


def _discriminator(
    recipe: Recipe, seed: int, inputs: Inputs, teacher: Denoiser
) -> ProjectedDiscriminator | None:
    if recipe.objective.distributional is None:
        return None
    return build_discriminator(
        load_backbones(recipe.backbones, inputs.backbones, teacher, derived_seed(seed, "discriminator")),
        head=recipe.heads.kind,
        projection_channels=recipe.heads.projection_channels,
        head_channels=recipe.heads.channels,
        group=recipe.heads.norm_group,
        seed=derived_seed(seed, "discriminator"),
        label_dim=teacher.arch.label_dim,
    )


def _instance_loss(recipe: Recipe, seed: int, inputs: Inputs, teacher: Denoiser) -> InstanceLoss | None:
    if recipe.objective.instance is None:
        return None
    if recipe.objective.instance == "consistency":
        return ConsistencyLoss(teacher, recipe.objective.grid, seed)
    if recipe.teacher_sampler.churn > 0:
        raise UserError(
            "Imitating the end of the teacher's ODE needs a deterministic sampler; "
            "set 'teacher_sampler.churn' to 0."
        )
    if recipe.objective.pairs == 0:
        return SolvingDirectLoss(teacher, recipe.teacher_sampler, seed)
    if inputs.pairs is None:
        raise UserError("The recipe imitates solved pairs; pass the file that 'gdd pairs' made as --pairs.")
    return DirectLoss(load_pairs(inputs.pairs), seed)


def _note_session(path: Path) -> list[dict[str, Any]]:
    """Add this start's code and machine to the list of all starts."""
    sessions: list[dict[str, Any]] = [*(read_json(path) if path.exists() else []), environment()]
    write_json(path, sessions)
    return sessions
