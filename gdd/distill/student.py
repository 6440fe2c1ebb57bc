"""A student in training: generator, discriminator, their optimizers, and one step of all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdd.adversary.augmentation import build_augmentation
from gdd.adversary.discriminator import Features, ProjectedDiscriminator
from gdd.adversary.heads import span_processes
from gdd.adversary.losses import LOSSES
from gdd.adversary.r1 import r1_backward
from gdd.adversary.spectral_norm import PowerIterations
from gdd.config.recipe import Recipe
from gdd.data.image_array import ImageArray
from gdd.distill.generate import save_snapshot
from gdd.distill.graphs import Graphs, Passes
from gdd.distill.instance import InstanceLoss
from gdd.distill.shares import Part, Shares
from gdd.networks.preconditioning import OneStepGenerator
from gdd.training.gradients import Gradients
from gdd.training.layout import lay_out
from gdd.training.scalars import Scalars
from gdd.training.update import averaged_copy, ema_decay, load_optimizer, update_average
from gdd.training.world import ALONE, World

Sums = defaultdict[str, Any]  # what is logged: this process's part of the batch's means and sums


class Student:
    """The generator and what trains it (see `gdd.training.loop.Trainee`).

    A batch consists of groups of `recipe.heads.norm_group` images. Random numbers belong to groups and the
    discriminator's batch norms look at one group each, so the result does not depend on how groups are spread
    over processes, nor on how many go through the networks at once.

    `generator` is as it starts; what of it requires no gradient stays frozen. `discriminator` and `instance`
    are for objectives with such a part. `folder` takes snapshots and samples.

    Raises:
        UserError: the batch cannot be spread over the processes.
    """

    discriminator_optimizer: torch.optim.Adam  # where there is a discriminator
    graphs: Graphs | None = None  # that take the place of the passes

    def __init__(
        self,
        recipe: Recipe,
        generator: OneStepGenerator,
        discriminator: ProjectedDiscriminator | None,
        instance: InstanceLoss | None,
        data: ImageArray,
        seed: int,
        folder: Path,
        *,
        world: World = ALONE,
    ) -> None:
        self.recipe = recipe
        self.seed = seed
        self.folder = folder
        self.world = world
        self.memory_format = world.memory_format
        self.generator = self._placed(generator).train()
        self.average = averaged_copy(self.generator)
        self.discriminator = self._placed(discriminator).train() if discriminator else None
        self.instance = instance
        self.augmentation = build_augmentation(recipe.augment, recipe.batch) if discriminator else None
        self.images = 0
        self.layout = lay_out(recipe, world.size)
        self.images_at_once = self.layout.piece
        classes = generator.arch.label_dim
        self.shares = Shares(data, seed, self.layout, world, classes=classes, flip=recipe.flip)
        if self.discriminator and self.layout.span > 1:  # more processes than groups
            span_processes(self.discriminator, world.subgroup(self.layout.span), self.layout.span)
        trainable = [parameter for parameter in generator.parameters() if parameter.requires_grad]
        betas = (recipe.adam.beta1, recipe.adam.beta2)
        self.optimizer = torch.optim.Adam(trainable, recipe.lr.generator, betas, fused=True)
        self.gradients = Gradients(trainable, world)
        if self.discriminator:
            self.adversarial = LOSSES[str(recipe.objective.distributional)]
            self.iterations = PowerIterations(self.discriminator)
            self.discriminator_gradients = Gradients(self.discriminator.heads.parameters(), world)
            # Lazy regularisation: the R1 step is an update of its own (StyleGAN2, App. B).
            ratio = recipe.r1.every / (recipe.r1.every + 1)
            self.discriminator_optimizer = torch.optim.Adam(
                self.discriminator.heads.parameters(),
                lr=recipe.lr.discriminator * ratio,
                betas=(recipe.adam.beta1**ratio, recipe.adam.beta2**ratio),
                fused=True,
            )

    # --- one step -------------------------------------------------------------------------------------

    def step(self) -> Mapping[str, float]:
        """Train generator and discriminator on one batch of the data."""
        recipe = self.recipe
        iteration = self.images // recipe.batch
        parts = self.shares.parts(self.images, self.images_at_once)
        scalars = Sums(float)
        fakes, replaced = self.generator_step(parts, scalars)
        if self.discriminator:
            replaced += self.discriminator_step(parts, fakes, scalars)
            if recipe.r1.gamma and iteration and iteration % recipe.r1.every == 0:
                replaced += self.r1_step(parts)
        update_average(self.average, self.generator, ema_decay(recipe.ema, self.images, recipe.batch))
        self.images += recipe.batch
        found = self._over_the_batch(scalars)
        if self.augmentation:
            self.augmentation.observe(found.pop("real_signs").double(), found.pop("real_logits").double())
            found["augment_p"] = self.augmentation.p
        return Scalars({**found, "replaced_gradients": replaced})

    def generator_step(self, parts: list[Part], scalars: Sums) -> tuple[list[Features], Tensor]:
        """Update the generator.

        Returns the features of its images, by part, if they are to be used again, and how many entries of the
        gradients were not finite.
        """
        if self.discriminator:
            self.discriminator.heads.requires_grad_(False)
            parts = self.shares.with_noise("generator noise", parts, self.generator.latent_shape)
        means, kept = self._run("generator", self._generator_passes, parts, self.optimizer)
        scalars |= means
        return kept, self._update(self.optimizer, self.gradients)

    def _generator_passes(self, parts: list[Part]) -> tuple[Sums, list[Features]]:
        scalars, kept = Sums(float), []
        if self.discriminator:
            self.iterations.begin()
        self.optimizer.zero_grad(set_to_none=True)
        for part, complete in self._until_complete(parts, self.gradients):
            loss = torch.zeros(len(part.images), device=part.images.device)
            if self.discriminator:
                features = self._features_of_fakes(part, "generator")
                with self.iterations.of_pass("fakes"):
                    logits = self.discriminator.logits(features, part.class_labels)
                adversarial = self.adversarial.generator(logits)
                loss = loss + adversarial
                _add_means(scalars, part, loss_generator=adversarial)
                if self.recipe.reuse_fakes:
                    kept.append([[tap.detach() for tap in taps] for taps in features])
            if self.instance:
                groups = part.split(self.layout.group)
                instance = torch.cat([self.instance(self.generator, self.average, group) for group in groups])
                loss = loss + self.recipe.objective.instance_weight * instance
                _add_means(scalars, part, loss_instance=instance)
            with complete:
                (loss.mean() * part.weight).backward()
        return scalars, kept

    def discriminator_step(self, parts: list[Part], fakes: list[Features], scalars: Sums) -> Tensor:
        """Update the discriminator on the same real images, with fresh fakes unless they are used again."""
        assert self.discriminator
        self.discriminator.heads.requires_grad_(True)
        if not fakes:
            parts = self.shares.with_noise("discriminator noise", parts, self.generator.latent_shape)
        passes = partial(self._discriminator_passes, fakes)
        scalars |= self._run("discriminator", passes, parts, self.discriminator_optimizer)
        return self._update(self.discriminator_optimizer, self.discriminator_gradients)

    def _discriminator_passes(self, fakes: list[Features], parts: list[Part]) -> Sums:
        assert self.discriminator
        scalars = Sums(float)
        self.iterations.begin()
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        for index, (part, complete) in enumerate(self._until_complete(parts, self.discriminator_gradients)):
            with torch.no_grad():
                fake_features = fakes[index] if fakes else self._features_of_fakes(part, "discriminator")
                real_features = self.extract(self._augmented(part.images, part, "real augmentation"), part)
            # Two passes, because batch norm must not see real and generated images together.
            with self.iterations.of_pass("fakes"):
                fake_logits = self.discriminator.logits(fake_features, part.class_labels)
            with self.iterations.of_pass("reals"):
                real_logits = self.discriminator.logits(real_features, part.class_labels)
            loss = self.adversarial.discriminator(real_logits, fake_logits)
            with complete:
                (loss.mean() * part.weight).backward()
            real, fake = torch.cat(real_logits, dim=1), torch.cat(fake_logits, dim=1)
            _add_means(scalars, part, loss_discriminator=loss, logits_real=real, logits_fake=fake)
            if self.augmentation:  # whole numbers, so that no split of the batch changes their sums
                scalars["real_signs"] += real.detach().sign().sum()
                scalars["real_logits"] += real.new_tensor(real.numel())
        return scalars

    def r1_step(self, parts: list[Part]) -> Tensor:
        """Lazy R1 as an update of its own: every * gamma / 2 * ||grad D(x)||^2 (StyleGAN2, App. B)."""
        self._run("R1", self._r1_passes, parts, self.discriminator_optimizer)
        return self._update(self.discriminator_optimizer, self.discriminator_gradients)

    def _r1_passes(self, parts: list[Part]) -> None:
        assert self.discriminator
        weight = self.recipe.r1.every * self.recipe.r1.gamma / 2
        self.iterations.begin()
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        for part, complete in self._until_complete(parts, self.discriminator_gradients):
            with self.iterations.of_pass("reals"), complete:
                images = part.images.contiguous(memory_format=self.memory_format)
                groups = self.shares.groups(part)
                r1_backward(self.discriminator, images, part.class_labels, weight * part.weight, groups)

    def _run(self, name: str, passes: Passes, parts: list[Part], optimizer: torch.optim.Adam) -> Any:
        """Go through the networks, or let a graph, which has its random projections by the first group."""
        if not self.graphs:
            return passes(parts)
        first = self.shares.groups(parts[0])[0] % self.recipe.heads.projections
        return self.graphs.run(name, passes, parts, optimizer.param_groups[0]["params"], first)

    def _features_of_fakes(self, part: Part, network: str) -> Features:
        """Return the features of images that are generated for a part."""
        assert part.z is not None
        fakes = self.generator(part.z, part.class_labels)
        return self.extract(self._augmented(fakes, part, f"{network} augmentation"), part)

    def _augmented(self, images: Tensor, part: Part, purpose: str) -> Tensor:
        """Change images as the discriminator is to see them; R1 takes real ones as they are."""
        if self.augmentation is None:
            return images
        return self.augmentation.apply(images, self.shares.uniform(purpose, part, self.augmentation.width))

    def extract(self, images: Tensor, part: Part) -> Features:
        """Return the discriminator's features of a part's images, whatever memory format these come in."""
        assert self.discriminator
        images = images.contiguous(memory_format=self.memory_format)
        return self.discriminator.extract(images, self.shares.groups(part))

    def _until_complete(self, parts: list[Part], gradients: Gradients) -> Iterable[tuple[Part, Any]]:
        # No graph holds sums over processes: they begin after it.
        return gradients.until_complete(parts, None if self.graphs else self.world)

    def _update(self, optimizer: torch.optim.Adam, gradients: Gradients) -> Tensor:
        """Make a step with the whole batch's gradients; return how many of their entries were not finite."""
        replaced = gradients.finish(self.world)
        optimizer.step()
        return replaced

    def _over_the_batch(self, scalars: Sums) -> dict[str, Any]:
        """Sum over the processes what each has added up, in one transfer."""
        values = torch.stack(list(scalars.values()))
        self.world.all_reduce([values])
        return dict(zip(scalars, values.unbind(), strict=True))

    # --- where it runs --------------------------------------------------------------------------------

    def _placed(self, network: Any) -> Any:
        network = network.to(self.world.device)
        if self.memory_format == torch.channels_last:  # else as each network keeps its weights
            network = network.to(memory_format=torch.channels_last)
        return network

    # --- what is kept ---------------------------------------------------------------------------------

    def snapshot(self, images: int) -> None:
        """Write the average's weights, their hash for `distill`, and images from fixed latents."""
        if self.graphs:
            self.graphs.release()
        save_snapshot(self.folder, self.average, images, self.recipe, self.seed)

    def state(self) -> dict[str, Any]:
        """Return everything that changes in training; the backbones come from their own files."""
        state: dict[str, Any] = {
            "images": self.images,
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.discriminator:
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
        if self.discriminator:
            self.discriminator.load_trainable_state(state["discriminator"])
            load_optimizer(self.discriminator_optimizer, state["discriminator_optimizer"])
        if self.augmentation:
            self.augmentation.load_state_dict(state["augmentation"])


def _add_means(scalars: Sums, part: Part, **values: Tensor) -> None:
    """Add a part's means to the batch's means."""
    for key, value in values.items():
        scalars[key] += value.detach().mean() * part.weight
