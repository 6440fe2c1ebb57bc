"""Published weights out of their files, into networks built without any; no code in a file is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdd.config.names import CLASS_EMBEDDINGS
from gdd.errors import UserError
from gdd.files import require_bounded
from gdd.foreign.read import read_foreign

COUNTER = "num_batches_tracked"  # of batch norm in training; files from before torch 0.4.1 have none
EMBEDDING_WIDTH = 320  # EfficientNet-lite0's last features, whose class means StyleGAN-XL starts from


class WeightsProblem(Exception):
    """What is wrong with a file, to follow its name in a sentence."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict saved by torch, also one that lies under `model` (DeiT).

    Raises:
        WeightsProblem: the file is damaged or holds something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's two formats and their pickles fail in every way
        raise WeightsProblem(f"cannot be read as weights ({type(error).__name__})") from None
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsProblem("holds no tensors by name")
    return {str(name): tensor for name, tensor in content.items()}


def read_augreg(path: Path, whole: Any) -> dict[str, Tensor]:
    """Read a vision transformer's .npz in JAX's names (AugReg, arXiv:2106.10270) by timm's loader.

    `whole` is timm's network of this architecture on the meta device; it takes the weights.

    Raises:
        WeightsProblem: the file is damaged or holds something else.
    """
    net = whole.to_empty(device="cpu")
    try:
        require_bounded(path)
        with np.load(path, allow_pickle=False) as arrays:
            positions = arrays["Transformer/posembed_input/pos_embedding"].shape
        net.load_pretrained(str(path))
    except Exception as error:  # numpy's readers fail in every way on a stream of nonsense
        raise WeightsProblem(f"cannot be read as a vision transformer ({type(error).__name__})") from None
    if positions != net.pos_embed.shape:  # timm has interpolated them
        raise WeightsProblem(f"is another network's (its position embedding has the shape {positions})")
    return dict(net.state_dict())


def fill(net: nn.Module, state: Mapping[str, Tensor], unneeded: tuple[str, ...]) -> None:
    """Give every parameter and buffer of `net`, which may be on the meta device, its weights in float32.

    All of `state` has to be there and to fit, but for names that begin with one of `unneeded`. Counters of
    batch norm stay as they are.

    Raises:
        WeightsProblem: a tensor is missing, too many, or of another shape.
    """
    expected = {name: tensor.shape for name, tensor in net.state_dict().items() if not name.endswith(COUNTER)}
    given = {
        name: tensor.float()
        for name, tensor in state.items()
        if not name.startswith(unneeded) and not name.endswith(COUNTER)
    }
    shapes = {name: tensor.shape for name, tensor in given.items()}
    if wrong := [name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name)]:
        first = ascii(wrong[0][:80])
        raise WeightsProblem(f"is another network's ({len(wrong)} tensors differ, the first is {first})")
    net.load_state_dict(given, strict=False, assign=True)


def load_class_embedding(path: Path, label_dim: int) -> Tensor:
    """Return the first rows of StyleGAN-XL's table (arXiv:2202.00273), [label_dim, 320] in float32.

    Row k is the mean of EfficientNet-lite0's last features over ImageNet's class k. For another data set the
    rows mean nothing, but GDD's release starts its class embeddings from them there too (CIFAR-10: the first
    ten).

    Raises:
        UserError: the file is missing, damaged or something else, or has fewer rows than there are classes.
    """
    table = read_foreign(path, "network", "embed")[1].get("weight")
    if (
        table is None
        or table.shape[1:] != (EMBEDDING_WIDTH,)
        or len(table) < label_dim
        or not table.isfinite().all()
    ):
        raise UserError(
            f"{path} holds no {label_dim} rows of {EMBEDDING_WIDTH} finite numbers under 'embed'; run "
            f"`gdd fetch {CLASS_EMBEDDINGS['stylegan-xl']}` or set 'heads.class_embedding' to 'random'."
        )
    return table[:label_dim].float().clone()
