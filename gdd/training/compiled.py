"""`torch.compile` where it works."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


def compiled(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Return `function` compiled, or as it is where compiling fails.

    Both directions are tried on `arguments` here, because the backward pass is compiled when it is first
    asked for. Gradients are left behind where they can be taken.
    """
    try:
        fast = torch.compile(function)
        tensors = _tensors(fast(*arguments))
        torch.stack([tensor.float().sum() for tensor in tensors]).sum().backward()
    except Exception as error:  # a compiler fails in its own ways on every machine
        reason = str(error).strip().splitlines() or [type(error).__name__]
        log.warning("torch.compile does not work here (%s); training goes on without it.", reason[0])
        return function
    return fast


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in _tensors(part)]
