"""Direct imitation: the student's image is to be the end of the teacher's ODE from the same noise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gdd.config.recipe import Sampler
from gdd.diffusion.sampling import Pairs, solve
from gdd.distill.distances import Distance, squared_error
from gdd.distill.objectives import RealImages
from gdd.networks.preconditioning import Denoiser, OneStepGenerator
from gdd.randomness import noise, stream


class DirectLoss:
    """Distance to the end of the teacher's ODE from the same noise (arXiv:2101.02388).

    Takes pairs solved beforehand, drawn at random for every group.
    """

    def __init__(self, pairs: Pairs, seed: int, distance: Distance = squared_error) -> None:
        self.pairs = pairs
        self.seed = seed
        self.distance = distance

    def __call__(
        self,
        generator: OneStepGenerator,
        average: OneStepGenerator,  # noqa: ARG002
        reals: RealImages,
    ) -> Tensor:
        """Return the distance of each image."""
        draws = stream(self.seed, "pair choice", reals.group)
        chosen = torch.randint(len(self.pairs.z), (len(reals.images),), generator=draws)
        device = reals.images.device
        one_hot = None
        if self.pairs.labels is not None:
            indices = self.pairs.labels[chosen].to(device)
            one_hot = functional.one_hot(indices, generator.arch.label_dim).float()
        output = generator(self.pairs.z[chosen].to(device), one_hot)
        return self.distance(output, self.pairs.x[chosen].to(device))


class SolvingDirectLoss:
    """As `DirectLoss`, but every group's noise is fresh and the teacher solves its ODE there and then."""

    def __init__(
        self, teacher: Denoiser, sampler: Sampler, seed: int, distance: Distance = squared_error
    ) -> None:
        self.teacher = teacher
        self.sampler = sampler
        self.seed = seed
        self.distance = distance

    def __call__(
        self,
        generator: OneStepGenerator,
        average: OneStepGenerator,  # noqa: ARG002
        reals: RealImages,
    ) -> Tensor:
        """Return the distance of each image."""
        z = noise(self.seed, "pair noise", reals.group, tuple(reals.images.shape)).to(reals.images.device)
        target = solve(self.teacher, z, self.sampler, reals.class_labels)
        return self.distance(generator(z, reals.class_labels), target)
