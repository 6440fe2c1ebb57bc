"""Which parameters a student keeps from its teacher (GDD-I): policies as data, exact lists of names.

Policies speak of the names of an unwrapped `OneStepGenerator`, such as `model.enc.32x32_block0.conv0.weight`.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gdd.errors import UserError

if TYPE_CHECKING:
    from torch import nn


def _inside_blocks(*layers: str) -> tuple[str, ...]:
    """Return patterns for these layers of every block; the first and last convolution are in none."""
    return tuple(f"*{place}*{layer}*" for place in ("block", "up", "down", "in") for layer in layers)


# A policy is a list of patterns of names to freeze; one that begins with "!" takes names out again.
FREEZE_POLICIES: dict[str, tuple[str, ...]] = {
    "none": (),
    "conv": _inside_blocks("conv", "proj"),  # GDD-I, D2O-F
    "conv+qkv": _inside_blocks("conv", "proj", "qkv"),
    "conv+qkv+skip": _inside_blocks("conv", "proj", "qkv", "skip"),
    # All but the scales and shifts of the norms; a two-time student has no second embedding from its teacher.
    "norms-only": ("*", "!*norm[0-9].*", "!*_norm.*", "!*.map_target.*"),
}


def frozen_names(names: Iterable[str], policy: str | tuple[str, ...]) -> list[str]:
    """Return those of `names` that `policy` freezes, in their order.

    Args:
        names: dotted parameter names of one network.
        policy: a key of `FREEZE_POLICIES`, or patterns (`*`, `?`, `[...]`; "!" in front excepts again).

    Raises:
        UserError: an unknown policy, or a pattern that matches no name.
    """
    names = list(names)
    if isinstance(policy, str):
        if policy not in FREEZE_POLICIES:
            known = ", ".join(FREEZE_POLICIES)
            raise UserError(
                f"Unknown freeze policy '{policy}'; known are {known}, or give a list of patterns."
            )
        # These name layers that a small network may not have; in a user's patterns that is a typo.
        return _select(names, FREEZE_POLICIES[policy])
    for pattern in policy:
        if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in names):
            raise UserError(
                f"The freeze pattern '{pattern}' matches no parameter; names look like '{names[0]}'."
                if names
                else f"The freeze pattern '{pattern}' matches no parameter: there are none."
            )
    return _select(names, policy)


def freeze(network: nn.Module, policy: str | tuple[str, ...]) -> list[str]:
    """Let exactly the parameters that `policy` does not freeze require gradients; return the frozen names.

    Raises:
        UserError: as `frozen_names`.
    """
    parameters = dict(network.named_parameters())
    frozen = frozen_names(parameters, policy)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def _select(names: list[str], patterns: Iterable[str]) -> list[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        matching = {name for name in names if fnmatchcase(name, pattern.removeprefix("!"))}
        chosen = chosen - matching if pattern.startswith("!") else chosen | matching
    return [name for name in names if name in chosen]
