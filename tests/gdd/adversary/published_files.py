"""Weights as publishers' files hold them, made up, and a measure of derivatives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gdd.adversary.feature_network import FeatureNetwork
from gdd.adversary.losses import r1_penalty


def random_state(shapes: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep a signal's size, and batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, like in shapes.items():
        noise = torch.empty(like.shape).normal_(generator=generator)
        match name.rsplit(".", maxsplit=1)[-1]:
            case "num_batches_tracked":
                continue
            case "running_var":
                state[name] = noise.abs() + 0.5
            case "weight" if like.ndim == 1:
                state[name] = 1 + 0.1 * noise
            case "weight":
                state[name] = noise * math.sqrt(1 / math.prod(like.shape[1:]))
            case _:
                state[name] = 0.1 * noise
    return state


def timm_state(architecture: str) -> dict[str, Tensor]:
    import timm

    with torch.device("meta"):
        shapes = timm.create_model(architecture, pretrained=False).state_dict()
    return random_state(shapes)


def vgg_state() -> dict[str, Tensor]:
    import torchvision

    with torch.device("meta"):
        net = torchvision.models.vgg16_bn(weights=None, init_weights=False)
    # The classifier has most of the weights and is not needed.
    return {
        **random_state({"features." + k: v for k, v in net.features.state_dict().items()}),
        "classifier.0.bias": torch.zeros(1),
    }


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
            arrays[f"{attention}{name}/kernel"] = state[f"{of}attn.qkv.weight"][rows].T.reshape(
                width, heads, -1
            )
            arrays[f"{attention}{name}/bias"] = state[f"{of}attn.qkv.bias"][rows].reshape(heads, -1)
        arrays[f"{attention}out/kernel"] = state[f"{of}attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}out/bias"] = state[f"{of}attn.proj.bias"]
        for dense in (0, 1):
            arrays[f"{block}MlpBlock_3/Dense_{dense}/kernel"] = state[f"{of}mlp.fc{dense + 1}.weight"].T
            arrays[f"{block}MlpBlock_3/Dense_{dense}/bias"] = state[f"{of}mlp.fc{dense + 1}.bias"]
    np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    return path


def assert_close(taps: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    """Assert that each tap is right to within a fraction of its largest value, and not trivial."""
    for tap, wanted in zip(taps, expected, strict=True):
        assert tap.shape == wanted.shape
        assert wanted.std() > 1e-3
        assert (tap - wanted).abs().max() < tolerance * wanted.abs().max()


def assert_passes_gradients(net: FeatureNetwork, images: Tensor) -> None:
    """Assert that gradients reach the images from every tap and no weight, and that R1 has a gradient of its own.

    That gradient, with respect to one factor a tap as a head's weight, is compared with finite differences.
    """
    nn.Sequential(net.requires_grad_(True)).train()
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for tap in range(len(net.channels)):
        leaf = images.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(net(leaf)[tap].square().mean(), leaf)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    def penalty(factors: Tensor) -> Tensor:
        def discriminator(x: Tensor, labels: Tensor | None) -> list[Tensor]:
            parts = zip(factors, net(x), strict=True)
            return [
                (factor * tap / tap.detach().std()).sin().flatten(1).mean(1, keepdim=True)
                for factor, tap in parts
            ]

        return r1_penalty(discriminator, images).sum()

    factors = torch.linspace(0.5, 1.5, len(net.channels), dtype=images.dtype, requires_grad=True)
    (slopes,) = torch.autograd.grad(penalty(factors), factors)
    direction = torch.linspace(1, -0.5, len(net.channels), dtype=images.dtype)
    step = 1e-5 if images.dtype == torch.float64 else 1e-2
    with torch.no_grad():
        measured = (penalty(factors + step * direction) - penalty(factors - step * direction)) / (2 * step)
    assert torch.allclose(slopes @ direction, measured, rtol=1e-6 if images.dtype == torch.float64 else 1e-2)
    assert all(parameter.grad is None for parameter in net.parameters())
