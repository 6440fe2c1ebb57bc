"""Training a teacher, for data sets without a published one (EDM, arXiv:2206.00364)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gdd.config.architecture import Architecture
from gdd.config.recipe import TeacherRecipe
from gdd.data.image_array import ImageArray, to_signed
from gdd.data.loader import EpochOrder
from gdd.diffusion.sampler import DenoiserFunction
from gdd.files import sha256, write_json
from gdd.networks.checkpoint import save_network
from gdd.networks.preconditioning import SIGMA_DATA, Denoiser
from gdd.provenance import environment
from gdd.randomness import derived_seed, seeded_weights, stream
from gdd.training.gradients import Gradients
from gdd.training.loop import train
from gdd.training.run_directory import own_run
from gdd.training.scalars import Scalars
from gdd.training.update import averaged_copy, ema_decay, update_average
from gdd.training.world import ALONE, World, join


class TeacherTraining:
    """A denoiser, its average and optimizer (a `gdd.training.loop.Trainee`); `weights` is the snapshot."""

    def __init__(
        self,
        recipe: TeacherRecipe,
        arch: Architecture,
        data: ImageArray,
        weights: Path,
        world: World = ALONE,
    ) -> None:
        self.recipe = recipe
        self.data = data
        self.weights = weights
        self.world = world
        self.device = world.device
        self.images = 0
        self.order = EpochOrder(len(data), recipe.seed)
        with seeded_weights(derived_seed(recipe.seed, "teacher weights")):
            self.denoiser = Denoiser(arch)
        self.denoiser.to(self.device)
        self.average = averaged_copy(self.denoiser)
        self.optimizer = torch.optim.Adam(self.denoiser.parameters(), lr=recipe.lr, fused=True)
        self.gradients = Gradients(self.denoiser.parameters(), world)

    def step(self) -> Scalars:
        """Train on one batch."""
        recipe, classes = self.recipe, self.denoiser.arch.label_dim
        chosen = self.order.indices(self.images, recipe.batch)
        images, one_hot = to_signed(self.data.images[chosen]).to(self.device), None
        if classes:
            indices = torch.from_numpy(self.data.labels[chosen])
            one_hot = functional.one_hot(indices, classes).float().to(self.device)
        source = stream(recipe.seed, "teacher noise", self.images)
        # Dropout only knows the device's default generator.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derived_seed(recipe.seed, "dropout", self.images))
            loss = edm_loss(self.denoiser, images, one_hot, source, recipe.p_mean, recipe.p_std).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        replaced = self.gradients.finish(self.world)
        self.optimizer.param_groups[0]["lr"] = learning_rate(recipe, self.images)
        self.optimizer.step()
        update_average(self.average, self.denoiser, ema_decay(recipe.ema, self.images, recipe.batch))
        self.images += recipe.batch
        return Scalars({"loss": loss.detach(), "replaced_gradients": replaced})

    def snapshot(self, images: int) -> None:
        """Write the average's weights."""
        description = {
            "images": images,
            "dataset": self.data.name,
            "dataset_sha256": self.data.sha256,
            "training": self.recipe.model_dump(mode="json"),
        }
        save_network(self.weights, self.average, **description)

    def state(self) -> dict[str, Any]:
        """Return everything that changes in training."""
        return {
            "images": self.images,
            "denoiser": self.denoiser.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.images = state["images"]
        self.denoiser.load_state_dict(state["denoiser"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])


def edm_loss(
    denoiser: DenoiserFunction,
    images: Tensor,
    class_labels: Tensor | None,
    source: torch.Generator,
    p_mean: float,
    p_std: float,
) -> Tensor:
    """Return EDM's denoising loss of each image, [B], as a mean over its C*H*W values (EDM Eq. 8, Table 1).

    Its weight makes the loss of a network whose output is zero about 1 at every noise level. EDM's code sums
    over the values where this takes the mean, to which Adam is indifferent.

    `images` [B, C, H, W] are in [-1, 1]; ln(sigma) ~ N(p_mean, p_std^2); `source` draws noise levels and
    noise on the CPU.
    """
    sigma = (p_mean + p_std * torch.randn(len(images), generator=source)).exp().to(images.device)
    noise = torch.randn(images.shape, generator=source).to(images.device)
    denoised = denoiser(images + sigma.reshape(-1, 1, 1, 1) * noise, sigma, class_labels)
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    return weight * (denoised - images).square().flatten(1).mean(1)


def learning_rate(recipe: TeacherRecipe, images: int) -> float:
    """Return Adam's rate at an image count: a linear rise, a plateau, a linear fall to a tenth."""
    rise = min(1.0, (images + recipe.batch) / recipe.warmup) if recipe.warmup else 1.0
    fall_begins = recipe.images * (1 - recipe.decay)
    fallen = max(0.0, images - fall_begins) / (recipe.images * recipe.decay) if recipe.decay else 0.0
    return recipe.lr * rise * (1 - 0.9 * fallen)


def train_teacher(
    folder: str | Path,
    recipe: TeacherRecipe,
    arch: Architecture,
    data: ImageArray,
    *,
    checkpoint_every: int | None = None,
) -> None:
    """Train a teacher in `folder` and publish model.safetensors, model.json, teacher.json and log.jsonl.

    The same call resumes an interrupted training. A teacher is trained in one process.

    Raises:
        Stopped: somebody asked for a stop.
        DivergedError: there has been no finite loss for hundreds of steps.
    """
    folder = Path(folder)
    # The data's content, not its time stamp, is part of what decides the weights.
    fingerprint = f"{recipe.fingerprint()}-{arch.fingerprint()}-{data.sha256[:16]}"
    with join() as world, own_run(folder, fingerprint) as run:
        if not run.finished:
            teacher = TeacherTraining(recipe, arch, data, run.state / "model.safetensors", world)
            trained = train(
                teacher,
                run,
                name=f"teacher {folder.name}",
                total=recipe.images,
                snapshots=[recipe.images],
                checkpoint_every=checkpoint_every or max(recipe.images // 10, 1),
            )
            facts = {
                "recipe": recipe.model_dump(mode="json"),
                "arch": arch.model_dump(mode="json"),
                "parameters": sum(parameter.numel() for parameter in teacher.denoiser.parameters()),
                "dataset": data.name,
                "dataset_sha256": data.sha256,
                "images": teacher.images,
                "seconds": round(trained.seconds, 1),
                "environment": {**environment(), **world.describe()},
            }
            write_json(run.state / "teacher.json", facts)
            # Small, and equal whenever the weights are: what depends on the teacher watches this file.
            write_json(run.state / "model.json", {"sha256": sha256(run.state / "model.safetensors")})
            run.finish()
        run.publish(["model.safetensors", "model.json", "teacher.json", "log.jsonl"])
