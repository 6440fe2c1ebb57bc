"""A student in training: generator, discriminator, their optimizers, and one step of all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from gdd.adversary.augmentation import build_augmentation
from gdd.adversary.discriminator import ProjectedDiscriminator
from gdd.adversary.normalisation import PowerIterations, span_processes
from gdd.adversary.r1 import r1_backward
from gdd.config.recipe import Recipe
from gdd.data.image_array import ImageArray, quantise
from gdd.distill.generate import SAMPLES, generate
from gdd.distill.memory import check_images_at_once, choose_images_at_once
from gdd.distill.objectives import DISTRIBUTIONAL, InstanceLoss
from gdd.distill.rehearsal import compile_passes
from gdd.distill.shares import Part, Shares
from gdd.errors import UserError
from gdd.files import write_npz
from gdd.networks.checkpoint import save_network
from gdd.networks.preconditioning import OneStepGenerator
from gdd.training.execution import PLAIN, Execution
from gdd.training.layout import lay_out
from gdd.training.update import (
    averaged_copy,
    ema_decay,
    load_optimizer,
    replace_nonfinite,
    sum_gradients,
    update_average,
)
from gdd.training.world import ALONE, World

Features = list[list[Tensor]]
Scalars = dict[str, Tensor]


class Student:
    """The generator and what trains it (see `gdd.training.loop.Trainee`).

    A batch consists of groups of `recipe.heads.norm_group` images; every random number of a group comes from
    (seed, purpose, index of the group) and the batch norms of the discriminator look at one group each, so
    that the result does not depend on how groups are spread over processes, nor on how many go through the
    networks together.

    Args:
        recipe: all that decides the weights, with `seed`.
        generator: as it starts, with its frozen parameters marked.
        discriminator: for a distributional objective, else None.
        instance: for an instance-based objective, else None; on the device already.
        data: the real images.
        seed: of data order, noise and draws.
        state: the folder that takes snapshots and samples.
        world: the processes that train this student together.
        execution: how on this machine.

    Raises:
        UserError: the batch cannot be spread over the processes, or `execution` does not fit the recipe.
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
        *,
        world: World = ALONE,
        execution: Execution = PLAIN,
    ) -> None:
        self.recipe = recipe
        self.world = world
        self.execution = execution
        self.memory_format = execution.memory_format(world.device)
        self.generator = self._placed(generator).train()
        self.average = averaged_copy(self.generator)
        self.discriminator = self._placed(discriminator).train() if discriminator else None
        self.instance = instance
        self.augmentation = build_augmentation(recipe.augment, recipe.batch) if discriminator else None
        self.seed = seed
        self.folder = state
        self.images = 0
        self.layout = lay_out(recipe.batch, recipe.heads.norm_group, world.size)
        self.shares = Shares(
            data, seed, self.layout, world, classes=generator.arch.label_dim, flip=recipe.flip
        )
        if self.layout.span > 1:
            self._span_groups()
        self.trainable = [parameter for parameter in generator.parameters() if parameter.requires_grad]
        betas = (recipe.adam.beta1, recipe.adam.beta2)
        self.optimizer = torch.optim.Adam(self.trainable, recipe.lr.generator, betas, fused=True)
        self.discriminator_optimizer: torch.optim.Adam | None = None
        self.generate: Callable[..., Tensor] = self.generator
        self._settled = False
        if self.discriminator:
            # Lazy regularisation: the R1 step is an update of its own (StyleGAN2, App. B).
            ratio = recipe.r1.every / (recipe.r1.every + 1)
            self.discriminator_optimizer = torch.optim.Adam(
                self.discriminator.trainable_parameters(),
                lr=recipe.lr.discriminator * ratio,
                betas=(recipe.adam.beta1**ratio, recipe.adam.beta2**ratio),
                fused=True,
            )
            self.look: Callable[[Tensor], Features] = self.discriminator.extract
            self.iterations = PowerIterations(self.discriminator)
        self.images_at_once = execution.images_at_once
        if self.images_at_once is not None:
            check_images_at_once(self, self.images_at_once)

    # --- one step -------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """Train generator and discriminator on one batch of the data."""
        recipe, images_at_once = self.recipe, self._settle()
        iteration = self.images // recipe.batch
        parts = self.shares.parts(self.images, images_at_once)
        scalars: Scalars = {}
        fakes, replaced = self.generator_step(parts, scalars)
        if self.discriminator:
            replaced += self.discriminator_step(parts, fakes, scalars)
            if recipe.r1.gamma and iteration and iteration % recipe.r1.every == 0:
                replaced += self.r1_step(parts)
        decay = ema_decay(recipe.ema, self.images, recipe.batch)
        update_average(self.average, self.generator, decay)
        self.images += recipe.batch
        found = self._over_the_batch(scalars)
        if self.augmentation:
            self.augmentation.observe(found.pop("real_signs"), recipe.batch * self._logits_per_image)
            found["augment_p"] = self.augmentation.p
        return {**found, "replaced_gradients": float(replaced)}

    def _settle(self) -> int:
        """Return how many images go through the networks at once, which the first step chooses."""
        found = self.images_at_once
        if not self._settled:
            # On unlike GPUs some processes may know it from a checkpoint, but all choose together.
            if self.world.any(found is None):
                found = self.images_at_once = choose_images_at_once(self)
            self._settled = True
            if self.execution.compile:
                compile_passes(self, cast(int, found))
        assert found is not None
        return found

    def generator_step(self, parts: list[Part], scalars: Scalars) -> tuple[list[Features], int]:
        """Update the generator; return the projected features of the fakes it was judged by."""
        kept: list[Features] = []
        if self.discriminator:
            self.discriminator.requires_grad_(False)
            self.iterations.begin(len(parts))
        self.optimizer.zero_grad(set_to_none=True)
        for part in parts:
            loss = torch.zeros(len(part.images), device=part.images.device)
            if self.discriminator:
                fakes = self.fakes(part, "generator noise")
                augmented = self._augmented(fakes, part, "generator augmentation")
                features = self.extract(augmented, self.look)
                with self.iterations.of_pass("fakes"):
                    logits = self.discriminator.logits(features, part.class_labels)
                adversarial = DISTRIBUTIONAL[str(self.recipe.objective.distributional)].generator(logits)
                loss = loss + adversarial
                _add(scalars, "loss_generator", adversarial, part)
                if self.recipe.reuse_fakes:
                    kept.append([[tap.detach() for tap in taps] for taps in features])
            if self.instance:
                groups = part.groups(self.layout.group)
                instance = torch.cat([self.instance(self.generator, self.average, group) for group in groups])
                loss = loss + self.recipe.objective.instance_weight * instance
                _add(scalars, "loss_instance", instance, part)
            (loss.mean() * part.weight).backward()
        return kept, self._update(self.optimizer, self.trainable)

    def discriminator_step(self, parts: list[Part], fakes: list[Features], scalars: Scalars) -> int:
        """Update the discriminator on the same real images, with fresh fakes unless they are reused."""
        assert self.discriminator
        assert self.discriminator_optimizer
        self.discriminator.requires_grad_(True)
        self.iterations.begin(len(parts))
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        for index, part in enumerate(parts):
            if self.recipe.reuse_fakes:
                fake_features = fakes[index]
            else:
                with torch.no_grad():
                    fakes_now = self.fakes(part, "discriminator noise")
                    augmented = self._augmented(fakes_now, part, "discriminator augmentation")
                    fake_features = self.extract(augmented, self.look)
            with torch.no_grad():
                augmented = self._augmented(part.images, part, "real augmentation")
                real_features = self.extract(augmented, self.look)
            # Two passes, because batch norm must not see real and generated images together.
            with self.iterations.of_pass("fakes"):
                fake_logits = self.discriminator.logits(fake_features, part.class_labels)
            with self.iterations.of_pass("reals"):
                real_logits = self.discriminator.logits(real_features, part.class_labels)
            loss = DISTRIBUTIONAL[str(self.recipe.objective.distributional)].discriminator(
                real_logits, fake_logits
            )
            (loss.mean() * part.weight).backward()
            _add(scalars, "loss_discriminator", loss, part)
            _add(scalars, "logits_real", torch.cat(real_logits, dim=1), part)
            _add(scalars, "logits_fake", torch.cat(fake_logits, dim=1), part)
            if self.augmentation:
                self._note_signs(torch.cat(real_logits, dim=1).detach(), scalars)
        return self._update(self.discriminator_optimizer, list(self.discriminator.trainable_parameters()))

    def r1_step(self, parts: list[Part]) -> int:
        """Lazy R1 as an update of its own: every * gamma / 2 * ||grad D(x)||^2 (StyleGAN2, App. B)."""
        discriminator = self.discriminator
        assert discriminator
        assert self.discriminator_optimizer
        weight = self.recipe.r1.every * self.recipe.r1.gamma / 2

        self.iterations.begin(len(parts))
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        for part in parts:
            with self.iterations.of_pass("reals"):
                images = part.images.contiguous(memory_format=self.memory_format)
                r1_backward(discriminator, images, part.class_labels, weight * part.weight)
        return self._update(self.discriminator_optimizer, list(discriminator.trainable_parameters()))

    def _update(self, optimizer: torch.optim.Adam, parameters: list[torch.nn.Parameter]) -> int:
        """Make a step with the whole batch's gradients; return how many of their entries were no numbers."""
        sum_gradients(parameters, self.world)
        replaced = replace_nonfinite(parameters)
        optimizer.step()
        return replaced

    def fakes(self, part: Part, purpose: str) -> Tensor:
        """Generate images for a part, from the noise that is drawn for this purpose."""
        z = self.shares.noise(purpose, part, self.generator.latent_shape)
        return self.generate(z, part.class_labels)

    def _augmented(self, images: Tensor, part: Part, purpose: str) -> Tensor:
        """Change images as the discriminator is to see them; R1 takes real ones as they are."""
        if self.augmentation is None:
            return images
        return self.augmentation.apply(images, self.shares.numbers(purpose, part, self.augmentation.draw))

    def _note_signs(self, real_logits: Tensor, scalars: Scalars) -> None:
        """Add up what ADA goes by; whole numbers, so that the sum does not depend on how images are split."""
        self._logits_per_image = real_logits.shape[1]
        signs = real_logits.sign().sum()
        scalars["real_signs"] = scalars["real_signs"] + signs if "real_signs" in scalars else signs

    def extract(self, images: Tensor, look: Callable[[Tensor], Features]) -> Features:
        """Return projected features in float32, computed in the precision that the recipe says."""
        low = self.recipe.backbone_precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=low):
            features = look(images.contiguous(memory_format=self.memory_format) if self._reorders else images)
        return [[tap.float() for tap in taps] for taps in features]

    def _over_the_batch(self, scalars: Scalars) -> dict[str, float]:
        """Bring what was added up here together with what other processes have, in one transfer."""
        values = torch.stack(list(scalars.values()))
        self.world.all_reduce([values])
        return dict(zip(scalars, values.tolist(), strict=True))

    # --- where it runs --------------------------------------------------------------------------------

    def _placed(self, network: Any) -> Any:
        network = network.to(self.world.device)
        return network.to(memory_format=torch.channels_last) if self._reorders else network

    @property
    def _reorders(self) -> bool:
        return self.memory_format == torch.channels_last

    def _span_groups(self) -> None:
        """Let several processes normalise over one group, because there are more of them than groups."""
        if self.instance:
            raise UserError(
                f"{self.world.size} processes share a batch of {self.layout.batch} images in groups of "
                f"{self.layout.group}; an instance-based objective needs whole groups, so use at most "
                f"{self.layout.batch // self.layout.group} processes."
            )
        if self.discriminator:
            span_processes(self.discriminator, self.world.subgroup(self.layout.span), self.layout.span)

    # --- what is kept ---------------------------------------------------------------------------------

    def snapshot(self, images: int) -> None:
        """Write the average's weights and its images from fixed latents."""
        description = {
            "images": images,
            "dataset": self.recipe.dataset,
            "recipe_hash": self.recipe.fingerprint(),
            "seed": self.seed,
        }
        save_network(self.folder / "snapshots" / f"{images:09d}.safetensors", self.average, **description)
        # A diverged network still leaves its snapshot; that it diverged is the evaluation's to say.
        samples = quantise(generate(self.average, 0, SAMPLES).nan_to_num())
        write_npz(self.folder / "samples" / f"{images:09d}.npz", images=samples.cpu().numpy())

    def state(self) -> dict[str, Any]:
        """Return everything that changes in training; the frozen parts come from their own files."""
        state: dict[str, Any] = {
            "images": self.images,
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "images_at_once": {"on": self._machine(), "images": self.images_at_once},
        }
        if self.discriminator and self.discriminator_optimizer:
            state["discriminator"] = self.discriminator.trainable_state()
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
        if self.augmentation:
            state["augmentation"] = self.augmentation.state_dict()
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.images = state["images"]
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.discriminator and self.discriminator_optimizer:
            self.discriminator.load_trainable_state(state["discriminator"])
            load_optimizer(self.discriminator_optimizer, state["discriminator_optimizer"])
        if self.augmentation:
            self.augmentation.load_state_dict(state["augmentation"])
        chosen = state.get("images_at_once")
        if self.execution.images_at_once is None and chosen and chosen["on"] == self._machine():
            self.images_at_once = chosen["images"]

    def _machine(self) -> str:
        """Name what a choice of images at once was made for."""
        device = self.world.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        return f"{self.world.size} x {name}"


def _add(scalars: Scalars, key: str, values: Tensor, part: Part) -> None:
    """Add a part's mean to the batch's mean."""
    mean = values.detach().mean() * part.weight
    scalars[key] = scalars[key] + mean if key in scalars else mean
