"""Random weights in the form of the publishers' files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import timm
import torch
import torchvision
from torch import Tensor

NARROW: list[int | str] = [4, 4, "M", 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M"]


def narrow_vgg() -> AbstractContextManager[object]:
    """Build VGG-16 with few channels, by torchvision and by timm."""
    stack = ExitStack()
    stack.enter_context(patch.dict(torchvision.models.vgg.cfgs, D=NARROW))
    stack.enter_context(patch.dict(timm.models.vgg.cfgs, vgg16=NARROW))
    return stack


def random_state(shapes: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep a signal's size, and batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, like in shapes.items():
        noise = torch.empty(like.shape).normal_(generator=generator)
        match name.rsplit(".", maxsplit=1)[-1]:
            case "num_batches_tracked":
                state[name] = torch.tensor(0)
            case "running_var":
                state[name] = noise.abs() + 0.5
            case "weight" if like.ndim == 1:
                state[name] = 1 + 0.1 * noise
            case "weight":
                state[name] = noise * math.sqrt(1 / math.prod(like.shape[1:]))
            case _:
                state[name] = 0.1 * noise
    return state


def published_shapes(name: str) -> dict[str, Tensor]:
    """Return the state dict of a published backbone's file on the meta device: names and shapes alone."""
    with torch.device("meta"):
        if name == "vgg16_bn":
            net = torchvision.models.vgg16_bn(weights=None, init_weights=False)
            net.classifier = torch.nn.Linear(1, 1)  # most of the weights, and not needed
        else:
            net = timm.create_model(name.removesuffix("_ns"), pretrained=False)
    return net.state_dict()


def published_state(name: str) -> dict[str, Tensor]:
    """Return random weights under the names and in the shapes of a published backbone's file."""
    return random_state(published_shapes(name))


def write_augreg(path: Path, state: Mapping[str, Tensor], heads: int) -> Path:
    """Write a vision transformer's state dict as JAX's .npz: transposed, heads apart, queries for themselves."""
    width = state["cls_token"].shape[2]
    prefix = "Transformer/"
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        f"{prefix}posembed_input/pos_embedding": state["pos_embed"],
        f"{prefix}encoder_norm/scale": state["norm.weight"],
        f"{prefix}encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for index in range(12):
        block, of = f"{prefix}encoderblock_{index}/", f"blocks.{index}."
        attention = f"{block}MultiHeadDotProductAttention_1/"
        for jax, ours in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            arrays[f"{block}{jax}/scale"] = state[f"{of}{ours}.weight"]
            arrays[f"{block}{jax}/bias"] = state[f"{of}{ours}.bias"]
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(part * width, (part + 1) * width)
            kernel = state[f"{of}attn.qkv.weight"][rows].T
            arrays[f"{attention}{name}/kernel"] = kernel.reshape(width, heads, -1)
            arrays[f"{attention}{name}/bias"] = state[f"{of}attn.qkv.bias"][rows].reshape(heads, -1)
        arrays[f"{attention}out/kernel"] = state[f"{of}attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}out/bias"] = state[f"{of}attn.proj.bias"]
        for dense in (0, 1):
            arrays[f"{block}MlpBlock_3/Dense_{dense}/kernel"] = state[f"{of}mlp.fc{dense + 1}.weight"].T
            arrays[f"{block}MlpBlock_3/Dense_{dense}/bias"] = state[f"{of}mlp.fc{dense + 1}.bias"]
    np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    return path
