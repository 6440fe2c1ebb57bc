"""How the images of a batch are spread over processes, and how many go through the networks together.

None of it changes what is computed: random numbers belong to groups of images and so do the statistics of
batch norm, and gradients are summed over the whole batch.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from gdd.config.recipe import Recipe
from gdd.errors import UserError


@dataclass(frozen=True)
class Layout:
    """Where the groups of a batch go: a process takes whole groups, or `span` processes share one."""

    batch: int
    group: int  # images over which statistics are taken
    processes: int
    span: int = 1

    @property
    def piece(self) -> int:
        """Images that cannot be parted any further: a group, or a process's piece of one."""
        return self.group // self.span

    @property
    def share(self) -> int:
        """Images of the process that has most."""
        return self.piece * -(-(self.batch // self.piece) // self.processes)

    def check(self, at_once: int) -> None:
        """Check how many images are to go through the networks together.

        Raises:
            UserError: it is no multiple of what cannot be parted.
        """
        if at_once < 1 or at_once % self.piece:
            raise UserError(
                f"{at_once} images at once per device are no multiple of {self.piece}; the recipe "
                f"normalises over groups of {self.group} images, so take {self.piece} or a multiple of it."
            )


def lay_out(recipe: Recipe, processes: int) -> Layout:
    """Return how `processes` share the groups of a batch.

    Raises:
        UserError: there are more processes than groups, and they cannot share the groups evenly.
    """
    groups, group = recipe.batch // recipe.heads.norm_group, recipe.heads.norm_group
    if processes <= groups:
        return Layout(recipe.batch, group, processes)
    possible = [groups * span for span in range(2, group + 1) if group % span == 0]
    if recipe.objective.instance:
        possible, more = [], " because an instance-based objective needs whole groups"
    else:
        more = f", or {', '.join(map(str, possible[:3]))} ..., each of which then takes a piece of a group"
    if processes in possible:
        return Layout(recipe.batch, group, processes, processes // groups)
    raise UserError(
        f"{processes} processes cannot share the batch of {groups} x {group} images evenly; use at most "
        f"{groups}{more}."
    )


def most_processes(recipe: Recipe, limit: int, step: int = 1) -> int:
    """Return the most processes, up to `limit` and a multiple of `step`, that can share a batch."""
    for count in range(limit - limit % step, step, -step):
        with contextlib.suppress(UserError):
            return lay_out(recipe, count).processes
    return step
