"""Instance-based objectives: they tie each single output of the student to the teacher.

Each is a function that gives the student's images and their targets, both [B, C, H, W], for the images of one
group. A new one is an entry of `INSTANCE`, and its name in `gdd.config.recipe.Instance`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from gdd.config.recipe import Objective, Sampler
from gdd.diffusion.sampler import Pairs, heun_sample, heun_step, load_pairs
from gdd.distill.distances import Distance, load_lpips, squared_error
from gdd.distill.shares import Part
from gdd.networks.preconditioning import (
    SIGMA_MAX,
    SIGMA_MIN,
    Denoiser,
    OneStepGenerator,
    TwoTimeGenerator,
    noise_levels,
)
from gdd.randomness import noise, stream

# (generator, its EMA, a group) -> the loss of each of the group's images, [B]
InstanceLoss = Callable[[OneStepGenerator, OneStepGenerator, Part], Tensor]


class Supervision(NamedTuple):
    """What targets are made from."""

    teacher: Denoiser  # in eval mode; it is never given gradients
    sampler: Sampler  # of the teacher
    pairs: Pairs | None
    grid: Tensor  # noise levels [steps + 1], float64, rising from 0.002 to 80
    seed: int  # of noise and draws, which belong to groups

    def noise(self, purpose: str, group: Part) -> Tensor:
        """Return unit noise like a group's images, on their device."""
        shape = tuple(group.images.shape)
        return noise(self.seed, f"{purpose} noise", group.index, shape).to(group.images.device)


# (supervision, generator, its EMA, a group) -> images and targets; with students of two times as generators
Compare = Callable[[Supervision, Any, Any, Part], tuple[Tensor, Tensor]]


def build_instance_loss(
    objective: Objective,
    sampler: Sampler,
    teacher: Denoiser,
    seed: int,
    pairs: Path | None,
    lpips: Path | None,
) -> InstanceLoss | None:
    """Return the instance-based loss of a recipe, None for an objective without one.

    Args:
        objective: of the recipe.
        sampler: of the teacher.
        teacher: in eval mode.
        seed: of the run.
        pairs: what `gdd pairs` made, for an objective that takes them.
        lpips: torchvision's VGG-16, for an objective that measures with LPIPS.

    Raises:
        UserError: a file is not what it should be.
    """
    if objective.instance is None:
        return None
    distance: Distance = squared_error
    if objective.distance == "lpips":
        assert lpips
        distance = load_lpips(lpips)
    solved: Pairs | None = None
    if objective.pairs:
        assert pairs
        solved = load_pairs(pairs)
    compare = INSTANCE[objective.instance]
    supervision = Supervision(teacher, sampler, solved, time_grid(objective.grid), seed)

    def loss(generator: OneStepGenerator, average: OneStepGenerator, group: Part) -> Tensor:
        output, target = compare(supervision, generator, average, group)
        return distance(output.float(), target.float())

    return loss


def time_grid(steps: int) -> Tensor:
    return noise_levels(steps, SIGMA_MIN, SIGMA_MAX)


def direct(
    supervision: Supervision, generator: OneStepGenerator, _: OneStepGenerator, group: Part
) -> tuple[Tensor, Tensor]:
    """Imitate the end of the teacher's ODE from the same noise (arXiv:2101.02388).

    Either it is solved from fresh noise, or pairs that were solved beforehand are drawn.
    """
    device, labels = group.images.device, group.class_labels
    if supervision.pairs is None:
        z = supervision.noise("pair", group)
        return generator(z, labels), heun_sample(supervision.teacher, z, supervision.sampler, labels)
    draws = stream(supervision.seed, "pair choice", group.index)
    chosen = torch.randint(len(supervision.pairs.z), (len(group.images),), generator=draws)
    if supervision.pairs.labels is not None:
        indices = supervision.pairs.labels[chosen].to(device)
        labels = functional.one_hot(indices, generator.arch.label_dim).float()
    return generator(supervision.pairs.z[chosen].to(device), labels), supervision.pairs.x[chosen].to(device)


def consistency(
    supervision: Supervision, generator: OneStepGenerator, average: OneStepGenerator, group: Part
) -> tuple[Tensor, Tensor]:
    """Consistency distillation (CD, arXiv:2303.01469, Algorithm 2).

    A data image is noised to a level of the grid, the teacher takes it one Heun step down, and the student's
    jump from above has to meet its average's jump from there.
    """
    device, labels, grid = group.images.device, group.class_labels, supervision.grid
    draws = stream(supervision.seed, "consistency level", group.index)
    index = torch.randint(1, len(grid), (len(group.images),), generator=draws)
    above, below = grid[index].float().to(device), grid[index - 1].float().to(device)
    noisy = group.images + above.reshape(-1, 1, 1, 1) * supervision.noise("consistency", group)
    with torch.no_grad():
        target = average.forward_at(
            heun_step(supervision.teacher, noisy, above, below, labels), below, labels
        )
    return generator.forward_at(noisy, above, labels), target


# --- students that are also given the noise level to reach ------------------------------------------------


class Levels(NamedTuple):
    """A step from `start` over `middle` down to `end`: indices [B] into the grid, on the CPU."""

    start: Tensor
    middle: Tensor
    end: Tensor


class OdeSolver(NamedTuple):
    """The ODE's way down as far as it is known: single steps by the teacher, longer ones by the average."""

    teacher: Denoiser
    average: TwoTimeGenerator
    grid: Tensor
    class_labels: Tensor | None

    @torch.no_grad()
    def move(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Move images x [B, C, H, W] down, from the level of index `start` [B] to that of `end` [B].

        A single step of the grid is the teacher's Heun step. A longer way is one jump of the student's
        average, because one step of the teacher would leave the ODE there: that is how what the teacher says
        of neighbouring levels spreads to levels far apart.
        """
        moved = x.clone()
        for rows, by_teacher in ((start - end == 1, True), (start - end > 1, False)):
            if not rows.any():
                continue
            chosen = rows.nonzero().flatten()
            above, below = (self.grid[index[chosen]].to(x.device) for index in (start, end))
            chosen = chosen.to(x.device)
            labels = self.class_labels[chosen] if self.class_labels is not None else None
            if by_teacher:
                moved[chosen] = heun_step(self.teacher, x[chosen], above, below, labels)
            else:
                moved[chosen] = self.average.jump(x[chosen], above, below, labels)
        return moved


@dataclass(frozen=True)
class TwoTimes:
    """An objective that noises a data image to the first of three levels and compares what follows.

    `purpose` names its random streams; `draw(count, steps, source)` gives the levels, and
    `compare(student, solver, noisy, levels)` the images and their targets.
    """

    purpose: str
    draw: Callable[[int, int, torch.Generator], Levels]
    compare: Callable[[TwoTimeGenerator, OdeSolver, Tensor, Levels], tuple[Tensor, Tensor]]

    def __call__(
        self, supervision: Supervision, generator: TwoTimeGenerator, average: TwoTimeGenerator, group: Part
    ) -> tuple[Tensor, Tensor]:
        """Return the images and targets of a group."""
        images, grid = group.images, supervision.grid
        draws = stream(supervision.seed, f"{self.purpose} levels", group.index)
        levels = self.draw(len(images), len(grid) - 1, draws)
        start = grid[levels.start].to(images.device).reshape(-1, 1, 1, 1)
        # In float64, because states are used in differences.
        noisy = images.double() + start * supervision.noise(self.purpose, group)
        return self.compare(
            generator, OdeSolver(supervision.teacher, average, grid, group.class_labels), noisy, levels
        )


def draw_progressive(count: int, steps: int, source: torch.Generator) -> Levels:
    """Cut the grid of 2^k steps into n = 1, 2, 4 ... 2^(k-1) equal parts, n drawn, and draw one of them."""
    uniform = torch.rand(2, count, dtype=torch.float64, generator=source)
    rounds = steps.bit_length() - 1
    parts = 2 ** (uniform[0] * rounds).long()
    width = steps // parts
    start = (1 + (uniform[1] * parts).long()) * width
    return Levels(start, start - width // 2, start - width)


def draw_trajectory(count: int, steps: int, source: torch.Generator) -> Levels:
    """Draw each level uniformly below the one before, the first from 2."""
    uniform = torch.rand(3, count, dtype=torch.float64, generator=source)
    start = 2 + (uniform[0] * (steps - 1)).long()
    middle = 1 + (uniform[1] * (start - 1)).long()
    return Levels(start, middle, (uniform[2] * middle).long())


def draw_reverse(count: int, steps: int, source: torch.Generator) -> Levels:
    """Start at 80, and draw the end; the middle is the level above it."""
    end = torch.randint(steps, (count,), generator=source)
    return Levels(torch.full_like(end, steps), end + 1, end)


def two_steps_in_one(
    student: TwoTimeGenerator, solver: OdeSolver, noisy: Tensor, levels: Levels
) -> tuple[Tensor, Tensor]:
    """Predict the image for which one Euler step from start to end arrives where two over middle do."""
    start, end = (solver.grid[index].to(noisy.device) for index in (levels.start, levels.end))
    halfway = solver.move(noisy, levels.start, levels.middle)
    reached = solver.move(halfway, levels.middle, levels.end)
    slope = (noisy - reached) / (start - end).reshape(-1, 1, 1, 1)
    target = noisy - start.reshape(-1, 1, 1, 1) * slope
    return student.predict(noisy, start, end, solver.class_labels), target


def same_end(
    student: TwoTimeGenerator, solver: OdeSolver, noisy: Tensor, levels: Levels
) -> tuple[Tensor, Tensor]:
    """Jump from start to end, where the way over middle arrives by `move` and a jump of the average.

    Both are compared as images, after a last jump of the average to 0.002, through which gradients pass.
    """
    start, middle, end = (solver.grid[index].to(noisy.device) for index in levels)
    average, labels = solver.average, solver.class_labels
    with torch.no_grad():
        at_end = average.jump(solver.move(noisy, levels.start, levels.middle), middle, end, labels)
        target = average.jump(at_end, end, SIGMA_MIN, labels)
    jumped = student.jump(noisy, start, end, labels)
    return average.jump(jumped, end, SIGMA_MIN, labels), target


TWO_TIMES = {
    # PD, arXiv:2202.00512, all its rounds at once: on longer parts the student's own steps are its teacher.
    "progressive": TwoTimes("progressive", draw_progressive, two_steps_in_one),
    # CTM, arXiv:2310.02279, Algorithm 1.
    "consistency-trajectory": TwoTimes("trajectory", draw_trajectory, same_end),
    # The papers' RCD: what is known of the way from 80 spreads downwards, a step of the teacher at a time.
    "reverse-consistency": TwoTimes("reverse consistency", draw_reverse, two_steps_in_one),
}
INSTANCE: Mapping[str, Compare] = {"direct": direct, "consistency": consistency, **TWO_TIMES}
