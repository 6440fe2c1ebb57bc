"""From an objective's record to the instance-based loss it asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gdd.config.recipe import Objective, Sampler
from gdd.diffusion.sampling import load_pairs
from gdd.distill.consistency import ConsistencyLoss, TrajectoryLoss
from gdd.distill.direct import DirectLoss, SolvingDirectLoss
from gdd.distill.distances import Distance, Lpips, squared_error
from gdd.distill.objectives import InstanceLoss
from gdd.distill.progressive import ProgressiveLoss, ReverseConsistencyLoss
from gdd.errors import UserError
from gdd.networks.preconditioning import Denoiser

# All take teacher, grid, seed and distance.
ON_A_GRID: dict[str, Callable[[Denoiser, int, int, Distance], InstanceLoss]] = {
    "consistency": ConsistencyLoss,
    "consistency-trajectory": TrajectoryLoss,
    "progressive": ProgressiveLoss,
    "reverse-consistency": ReverseConsistencyLoss,
}


def build_instance_loss(
    objective: Objective,
    sampler: Sampler,
    teacher: Denoiser,
    seed: int,
    *,
    pairs: Path | None = None,
    lpips: Path | None = None,
) -> InstanceLoss | None:
    """Return the instance-based loss, None for an objective without one.

    Args:
        objective: of the recipe.
        sampler: how the teacher is sampled where its images are imitated.
        teacher: in eval mode; it is never given gradients.
        seed: of noise and draws.
        pairs: what `gdd pairs` made, for an objective that takes them.
        lpips: torchvision's VGG-16, for an objective that measures with LPIPS.

    Raises:
        UserError: a file is missing or wrong, or the sampler is stochastic where it must not be.
    """
    if objective.instance is None:
        return None
    distance = _distance(objective, lpips)
    if objective.instance in ON_A_GRID:
        return ON_A_GRID[objective.instance](teacher, objective.grid, seed, distance)
    if sampler.churn > 0:
        raise UserError(
            "Imitating the end of the teacher's ODE needs a deterministic sampler; "
            "set 'teacher_sampler.churn' to 0."
        )
    if objective.pairs == 0:
        return SolvingDirectLoss(teacher, sampler, seed, distance)
    if pairs is None:
        raise UserError("The recipe imitates solved pairs; pass the file that 'gdd pairs' made as --pairs.")
    return DirectLoss(load_pairs(pairs), seed, distance)


def _distance(objective: Objective, lpips: Path | None) -> Distance:
    if objective.distance == "squared":
        return squared_error
    if lpips is None:
        raise UserError(
            "The recipe measures with LPIPS; get its VGG with 'gdd fetch lpips-vgg16' and pass the file "
            "as --lpips."
        )
    return Lpips(lpips)
