"""Weights on disk: safetensors whose header also says, as JSON, what the weights are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from gdd.errors import UserError
from gdd.files import atomic_path


def save_weights(
    path: str | Path, tensors: Mapping[str, torch.Tensor], description: Mapping[str, Any]
) -> None:
    """Write tensors in their own dtype, and `description` (plain JSON values) in the same file's header."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # By way of memory, because safetensors turns a full disk into an error of its own kind.
    content = save(plain, metadata={"gdd": json.dumps(description, sort_keys=True)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def load_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors by name, in the order of their file, and the description.

    Raises:
        UserError: the file is missing, broken, or was not written by `save_weights`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("gdd")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"The weights {path} do not exist.") from None
    except SafetensorError as error:
        raise UserError(
            f"The weights {path} cannot be read ({error}); delete the file and make it again."
        ) from None
    if header is None:
        raise UserError(f"{path} is a safetensors file without a description from gdd; import it first.")
    return tensors, json.loads(header)
