"""Losses and counters of a step, for which nothing waits before somebody reads them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


class Scalars(Mapping[str, float]):
    """Numbers by name, which stay on their device until one of them is read."""

    def __init__(self, values: Mapping[str, Tensor | float]) -> None:
        self._values = values
        # In float64, to which float32 and whole numbers go without rounding.
        tensors = [value.double() for value in values.values() if isinstance(value, Tensor)]
        self._tensors = torch.stack(tensors)

    @functools.cached_property
    def _read(self) -> dict[str, float]:
        read = iter(self._tensors.tolist())
        return {
            name: next(read) if isinstance(value, Tensor) else value for name, value in self._values.items()
        }

    def __getitem__(self, name: str) -> float:
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)
