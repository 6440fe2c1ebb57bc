"""A student in training: generator, discriminator, their optimizers, and one step of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gdd.adversary.discriminator import ProjectedDiscriminator
from gdd.adversary.losses import r1_penalty
from gdd.config.recipe import Recipe
from gdd.data.image_array import EpochOrder, ImageArray, to_signed
from gdd.data.quantise import quantise
from gdd.distill.objectives import DISTRIBUTIONAL, InstanceLoss, RealImages
from gdd.files import write_npz
from gdd.networks.checkpoint import save_network
from gdd.networks.preconditioning import OneStepGenerator
from gdd.randomness import labels, latents, noise
from gdd.training.ema import averaged_copy, ema_decay, update_average
from gdd.training.gradients import replace_nonfinite

SAMPLES = 64  # images from fixed latents kept with every snapshot
EVALUATION_SEED = 0  # the latents that samples and metrics are made from

Features = list[list[Tensor]]


class Student:
    """The generator and what trains it (see `gdd.training.loop.Trainee`).

    A batch is worked through in groups of `recipe.heads.norm_group` images; every random number of a group
    comes from (seed, purpose, index of the group), so that the result does not depend on how groups are
    spread over devices.

    Args:
        recipe: all that decides the weights, with `seed`.
        generator: as it starts, with its frozen parameters marked.
        discriminator: for a distributional objective, else None.
        instance: for an instance-based objective, else None.
        data: the real images.
        seed: of data order, noise and draws.
        state: the folder that takes snapshots and samples.
    """

    def __init__(
        self,
        recipe: Recipe,
        generator: OneStepGenerator,
        discriminator: ProjectedDiscriminator | None,
        instance: InstanceLoss | None,
        data: ImageArray,
        seed: int,
        state: Path,
    ) -> None:
        self.recipe = recipe
        self.generator = generator.train()
        self.average = averaged_copy(generator)
        self.discriminator = discriminator.train() if discriminator else None
        self.instance = instance
        self.data = data
        self.seed = seed
        self.folder = state
        self.images = 0
        self.order = EpochOrder(len(data), seed)
        self.trainable = [parameter for parameter in generator.parameters() if parameter.requires_grad]
        betas = (recipe.adam.beta1, recipe.adam.beta2)
        self.optimizer = torch.optim.Adam(self.trainable, recipe.lr.generator, betas, fused=True)
        self.discriminator_optimizer: torch.optim.Adam | None = None
        if discriminator:
            # Lazy regularisation: the R1 step is an update of its own (StyleGAN2, App. B).
            ratio = recipe.r1.every / (recipe.r1.every + 1)
            self.discriminator_optimizer = torch.optim.Adam(
                discriminator.trainable_parameters(),
                lr=recipe.lr.discriminator * ratio,
                betas=(recipe.adam.beta1**ratio, recipe.adam.beta2**ratio),
                fused=True,
            )

    # --- one step -------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """Train generator and discriminator on one batch of the data."""
        recipe = self.recipe
        iteration = self.images // recipe.batch
        groups = self._real_groups()
        scalars: dict[str, float] = {}
        fakes = self._generator_step(groups, scalars)
        if self.discriminator:
            self._discriminator_step(groups, fakes, scalars)
            if recipe.r1.gamma and iteration and iteration % recipe.r1.every == 0:
                self._r1_step(groups, scalars)
        decay = ema_decay(recipe.ema, self.images, recipe.batch)
        update_average(self.average, self.generator, decay)
        self.images += recipe.batch
        return scalars

    def _generator_step(self, groups: list[RealImages], scalars: dict[str, float]) -> list[Features]:
        """Update the generator; return the projected features of the fakes it was judged by."""
        kept: list[Features] = []
        if self.discriminator:
            self.discriminator.requires_grad_(False)
        self.optimizer.zero_grad(set_to_none=True)
        for reals in groups:
            loss = torch.zeros(len(reals.images), device=reals.images.device)
            if self.discriminator:
                fakes = self._fakes(reals, "generator noise")
                features = self.discriminator.extract(fakes)
                logits = self.discriminator.judge(features, reals.class_labels)
                adversarial = DISTRIBUTIONAL[str(self.recipe.objective.distributional)].generator(logits)
                loss = loss + adversarial
                _add(scalars, "loss_generator", adversarial, groups)
                if self.recipe.reuse_fakes:
                    kept.append([[tap.detach() for tap in taps] for taps in features])
            if self.instance:
                instance = self.instance(self.generator, self.average, reals)
                loss = loss + self.recipe.objective.instance_weight * instance
                _add(scalars, "loss_instance", instance, groups)
            (loss.mean() / len(groups)).backward()
        scalars["replaced_gradients"] = float(replace_nonfinite(self.trainable))
        self.optimizer.step()
        return kept

    def _discriminator_step(
        self, groups: list[RealImages], fakes: list[Features], scalars: dict[str, float]
    ) -> None:
        """Update the discriminator on the same real images, with fresh fakes unless they are reused."""
        assert self.discriminator
        assert self.discriminator_optimizer
        self.discriminator.requires_grad_(True)
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        for index, reals in enumerate(groups):
            if self.recipe.reuse_fakes:
                fake_features = fakes[index]
            else:
                with torch.no_grad():
                    fake_features = self.discriminator.extract(self._fakes(reals, "discriminator noise"))
            with torch.no_grad():
                real_features = self.discriminator.extract(reals.images)
            # Two passes, because batch norm must not see real and generated images together.
            fake_logits = self.discriminator.judge(fake_features, reals.class_labels)
            real_logits = self.discriminator.judge(real_features, reals.class_labels)
            loss = DISTRIBUTIONAL[str(self.recipe.objective.distributional)].discriminator(
                real_logits, fake_logits
            )
            (loss.mean() / len(groups)).backward()
            _add(scalars, "loss_discriminator", loss, groups)
            _add(scalars, "logits_real", torch.cat(real_logits, dim=1), groups)
            _add(scalars, "logits_fake", torch.cat(fake_logits, dim=1), groups)
        scalars["replaced_gradients"] += replace_nonfinite(self.discriminator.trainable_parameters())
        self.discriminator_optimizer.step()

    def _r1_step(self, groups: list[RealImages], scalars: dict[str, float]) -> None:
        """Lazy R1 as an update of its own: every * gamma / 2 * ||grad D(x)||^2 (StyleGAN2, App. B)."""
        assert self.discriminator
        assert self.discriminator_optimizer
        weight = self.recipe.r1.every * self.recipe.r1.gamma / 2
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        for reals in groups:
            penalty = r1_penalty(self.discriminator, reals.images, reals.class_labels)
            (weight * penalty.mean() / len(groups)).backward()
        scalars["replaced_gradients"] += replace_nonfinite(self.discriminator.trainable_parameters())
        self.discriminator_optimizer.step()

    def _real_groups(self) -> list[RealImages]:
        """Return this step's real images, group by group."""
        size = self.recipe.heads.norm_group
        chosen = self.order.indices(self.images, self.recipe.batch)
        groups = []
        for offset in range(0, self.recipe.batch, size):
            indices = chosen[offset : offset + size]
            images = to_signed(self.data.images[indices])
            groups.append(RealImages(images, self._one_hot(indices), (self.images + offset) // size))
        return groups

    def _fakes(self, reals: RealImages, purpose: str) -> Tensor:
        z = noise(self.seed, purpose, reals.group, tuple(reals.images.shape))
        return self.generator(z.to(reals.images.device), reals.class_labels)

    def _one_hot(self, indices: np.ndarray) -> Tensor | None:
        classes = self.generator.arch.label_dim
        if not classes:
            return None
        return functional.one_hot(torch.from_numpy(self.data.labels[indices]), classes).float()

    # --- what is kept ---------------------------------------------------------------------------------

    def snapshot(self, images: int) -> None:
        """Write the average's weights and its images from fixed latents."""
        description = {"images": images, "recipe_hash": self.recipe.fingerprint(), "seed": self.seed}
        save_network(self.folder / "snapshots" / f"{images:09d}.safetensors", self.average, **description)
        # A diverged network still leaves its snapshot; that it diverged is the evaluation's to say.
        samples = quantise(generate(self.average, 0, SAMPLES).nan_to_num())
        write_npz(self.folder / "samples" / f"{images:09d}.npz", images=samples.numpy())

    def state(self) -> dict[str, Any]:
        """Return everything that changes in training; the frozen parts come from their own files."""
        state: dict[str, Any] = {
            "images": self.images,
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.discriminator and self.discriminator_optimizer:
            state["discriminator"] = self.discriminator.trainable_state()
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.images = state["images"]
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.discriminator and self.discriminator_optimizer:
            self.discriminator.load_trainable_state(state["discriminator"])
            self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])


@torch.no_grad()
def generate(generator: OneStepGenerator, start: int, count: int) -> Tensor:
    """Return the generator's images `start` to `start + count`, `[count, C, H, W]`."""
    arch = generator.arch
    shape = (arch.img_channels, arch.img_resolution, arch.img_resolution)
    z = latents(EVALUATION_SEED, start, count, shape)
    classes = arch.label_dim
    one_hot = None
    if classes:
        one_hot = functional.one_hot(labels(EVALUATION_SEED, start, count, classes), classes).float()
    return generator(z, one_hot)


def _add(scalars: dict[str, float], key: str, values: Tensor, groups: list[RealImages]) -> None:
    """Add a group's mean to the batch's mean."""
    scalars[key] = scalars.get(key, 0.0) + values.detach().mean().item() / len(groups)
