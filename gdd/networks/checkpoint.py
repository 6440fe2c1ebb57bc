"""Networks on disk: weights together with the architecture they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from gdd.config.architecture import Architecture
from gdd.config.record import parse
from gdd.errors import UserError
from gdd.networks.preconditioning import Denoiser, OneStep, OneStepGenerator
from gdd.networks.two_time import TwoTimeGenerator
from gdd.networks.weights import load_weights, save_weights

NetworkT = TypeVar("NetworkT", Denoiser, OneStepGenerator)

KINDS = {Denoiser: "denoiser", OneStepGenerator: "generator", TwoTimeGenerator: "two-time generator"}


def save_network(path: str | Path, network: Denoiser | OneStepGenerator, **description: Any) -> None:
    """Write the weights in float32 with kind, architecture and `description` (JSON values) beside them."""
    description |= {"kind": KINDS[type(network)], "arch": network.arch.model_dump(mode="json")}
    if isinstance(network, OneStepGenerator):
        if network.steps > 1:
            description["steps"] = network.steps
        if network.one_step != OneStep():
            description["one_step"] = network.one_step._asdict()
    save_weights(path, network.state_dict(), description)


def load_denoiser(path: str | Path, dtype: torch.dtype = torch.float32) -> Denoiser:
    """Read a teacher, in eval mode on the CPU.

    Raises:
        UserError: the file is missing, broken, no denoiser, or does not fit the architecture it names.
    """
    return _load((Denoiser,), path, dtype)


def load_generator(path: str | Path, dtype: torch.dtype = torch.float32) -> OneStepGenerator:
    """Read a student, in eval mode on the CPU; one that knows two times comes as `TwoTimeGenerator`.

    Raises:
        UserError: the file is missing, broken, no generator, or does not fit the architecture it names.
    """
    return _load((OneStepGenerator, TwoTimeGenerator), path, dtype)


def one_step_from_denoiser(path: str | Path, dtype: torch.dtype = torch.float32) -> OneStepGenerator:
    """Read a teacher as the one-step generator that distillation starts from; as `load_denoiser`."""
    return OneStepGenerator.from_denoiser(load_denoiser(path), dtype).eval()


def _load(kinds: Sequence[type[NetworkT]], path: str | Path, dtype: torch.dtype) -> NetworkT:
    weights, description = load_weights(path)
    found = description.get("kind")
    kind = next((kind for kind in kinds if KINDS[kind] == found), None)
    if kind is None:
        holds = f"a {found}" if found else "no network"
        needed = KINDS[kinds[0]]
        raise UserError(f"{path} holds {holds}, but a {needed} is needed here; give the path of one.")
    arch = parse(Architecture, description.get("arch"), path)
    with torch.device("meta"):  # no memory and no time for weights that are replaced at once
        network = kind(arch, dtype)
    if isinstance(network, OneStepGenerator):
        network.steps = description.get("steps", 1)
        network.one_step = OneStep(**description.get("one_step", {}))
    check_fit(path, network.state_dict(), weights)
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return network.eval()


def check_fit(path: str | Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Compare names and shapes of weights with those of a network, which may be on the meta device.

    Raises:
        UserError: about the first tensor that is missing, too many, or of another shape.
    """
    for name in {**expected, **found}:
        if name not in found:
            problem = f"lacks {name}"
        elif name not in expected:
            problem = f"has {name} besides"
        elif expected[name].shape != found[name].shape:
            problem = f"has {name} as {list(found[name].shape)} instead of {list(expected[name].shape)}"
        else:
            continue
        raise UserError(f"{path} {problem}: its weights do not fit the architecture it names; get it anew.")
