"""Which parameters a student keeps from its teacher (GDD-I): freeze policies by name, and what they freeze.

A new policy is an entry of `FREEZE_POLICIES`. Its patterns match the names of a generator's parameters, such
as `model.enc.32x32_block0.conv0.weight`.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gdd.errors import UserError


def _inside_blocks(*layers: str) -> tuple[str, ...]:
    """Return patterns for these layers of every block; the first and last convolution are in none."""
    return tuple(f"*{place}*{layer}*" for place in ("block", "up", "down", "in") for layer in layers)


# A policy is a list of patterns of names to freeze; one that begins with "!" takes names out again.
FREEZE_POLICIES: dict[str, tuple[str, ...]] = {
    "none": (),
    "conv": _inside_blocks("conv", "proj"),  # GDD-I, D2O-F
    "conv+qkv": _inside_blocks("conv", "proj", "qkv"),
    "conv+qkv+skip": _inside_blocks("conv", "proj", "qkv", "skip"),
    # Only scales and shifts of norms are trained, and a two-time student's second embedding, which is new.
    "norms-only": ("*", "!*norm[0-9].*", "!*_norm.*", "!*.map_target.*"),
}


def frozen_names(names: Iterable[str], policy: str | tuple[str, ...]) -> list[str]:
    """Return those of a network's dotted parameter names that `policy` freezes, in their order.

    A policy is a key of `FREEZE_POLICIES`, or patterns (`*`, `?`, `[...]`; "!" in front excepts again).

    Raises:
        UserError: one of the given patterns matches no name.
    """
    names = list(names)
    patterns = FREEZE_POLICIES[policy] if isinstance(policy, str) else policy
    chosen: set[str] = set()
    for pattern in patterns:
        matching = {name for name in names if fnmatchcase(name, pattern.removeprefix("!"))}
        # A policy may name layers that a small network does not have; in a user's patterns that is a typo.
        if not matching and not isinstance(policy, str):
            raise UserError(
                f"The freeze pattern '{pattern}' matches no parameter; names look like '{names[0]}'."
            )
        chosen = chosen - matching if pattern.startswith("!") else chosen | matching
    return [name for name in names if name in chosen]


def _known(name: str) -> str:
    if name not in FREEZE_POLICIES:
        *others, last = map(repr, FREEZE_POLICIES)
        raise ValueError(f"input should be {', '.join(others)} or {last}")
    return name


def _list_policies(schema: dict[str, Any]) -> None:
    schema["enum"] = list(FREEZE_POLICIES)


# A field of the configuration that names a policy. The table is looked into when one is read.
PolicyName = Annotated[str, AfterValidator(_known), Field(json_schema_extra=_list_policies)]
