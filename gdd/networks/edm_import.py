"""Published networks (EDM's teachers, GDD's and SiD's generators) as files of this project."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gdd.config.architecture import Architecture
from gdd.config.record import parse
from gdd.errors import UserError
from gdd.files import sha256, write_json
from gdd.foreign.read import read_foreign
from gdd.networks.checkpoint import KINDS, check_fit, load_generator, load_weights, save_weights
from gdd.networks.preconditioning import SIGMA_DATA, Denoiser, OneStep, OneStepGenerator

EDM_LICENCE = "CC BY-NC-SA 4.0 (NVIDIA EDM)"

# The noise level and the form of the preconditioning at which published generators make their one step.
ONE_STEP = {
    "GDDPrecond": OneStep(),  # GDD's release
    "EDMPrecond": OneStep(2.5, "edm"),  # SiD (arXiv:2404.04057), sigma_init
}

# Arguments of EDM's classes that do not change what a network computes here: precision is chosen at load, and
# EDM's samplers keep within its noise levels by themselves.
WITHOUT_EFFECT = ("use_fp16", "sigma_min", "sigma_max")

# Published networks have no larger number among their arguments than 1,000 (ImageNet's classes).
LARGEST_ARGUMENT = 4096
LONGEST_ARGUMENT = 200  # characters

# What EDM's constructors fall back to where that differs from `Architecture`.
FALLBACKS: dict[str, dict[str, Any]] = {
    "SongUNet": {"model_channels": 128, "channel_mult": [1, 2, 2, 2], "dropout": 0.1},
    "DhariwalUNet": {"model_channels": 192, "channel_mult": [1, 2, 3, 4], "dropout": 0.1},
}


def import_network(
    source: str | Path,
    destination: str | Path,
    *,
    key: str = "ema",
    kind: Literal["denoiser", "generator"] = "denoiser",
    licence: str = EDM_LICENCE,
    expected: Architecture | None = None,
    dataset: str | None = None,
) -> Architecture:
    """Write the weights of a pickled network, in their own dtype, to a safetensors file.

    Nothing in the pickle is run. A generator loses the augmentation mapping.

    Args:
        source: a pickle of a dict.
        destination: what is written; its description has `licence` and `dataset`.
        key: where in the dict the network stands.
        kind: what the network is meant for.
        licence: of the weights.
        expected: the architecture it has to have, apart from what only training knows.
        dataset: the data set whose images it makes.

    Returns:
        The architecture that was written.

    Raises:
        UserError: the source is missing, damaged, hostile, or holds no network of the kind.
    """
    arch, tensors, description = read_network(source, key, kind, expected)
    description |= {"licence": licence, **({"dataset": dataset} if dataset else {})}
    save_weights(destination, tensors, description)
    return arch


def read_network(
    source: str | Path,
    key: str,
    kind: Literal["denoiser", "generator"] = "denoiser",
    expected: Architecture | None = None,
) -> tuple[Architecture, dict[str, Tensor], dict[str, Any]]:
    """Return a pickled network's architecture, its weights in order of execution, and what describes them.

    See `import_network`.
    """
    network, tensors = read_foreign(source, "network", key)
    class_name = network["class_name"]
    known = ["EDMPrecond"] if kind == "denoiser" else list(ONE_STEP)
    if class_name not in known:
        raise UserError(
            f"{source} holds a {str(class_name)[:60]}, but a {kind} is imported from "
            f"{' or '.join(known)}; give the file of one, or another kind."
        )
    arch = _architecture(source, network["arguments"])
    if expected is not None:
        _compare(source, arch, expected)
    description: dict[str, Any] = {
        "source": {"file": Path(source).name, "sha256": sha256(source), "key": key, "class_name": class_name},
    }
    network_class: type[Denoiser | OneStepGenerator] = Denoiser
    if kind == "generator":
        network_class, arch = OneStepGenerator, arch.for_one_step()
        tensors = {name: value for name, value in tensors.items() if ".map_augment." not in name}
        description["one_step"] = ONE_STEP[class_name]._asdict()
    # Checked first, because building thousands of blocks takes long; a block has ten tensors.
    if 10 * len(arch.widths) * (2 * arch.blocks_per_level + 1) > len(tensors):
        raise UserError(f"{source} has too few tensors for its architecture; fetch it again.")
    with torch.device("meta"):
        built = network_class(arch).state_dict()
    check_fit(source, built, tensors)
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise UserError(f"{source} has NaN, infinity or integers in {name}; get the file anew.")
    description |= {"kind": KINDS[network_class], "arch": arch.model_dump(mode="json")}
    return arch, {name: tensors[name] for name in built}, description


def import_generator(
    source: str | Path, destination: str | Path, *, key: str, licence: str, dataset: str
) -> Architecture:
    """Write a one-step generator that others published to `destination`: a pickle, or a file of this project.

    Returns its architecture.

    Raises:
        UserError: the source is missing, damaged, hostile, or holds no generator.
    """
    if Path(source).suffix != ".safetensors":
        return import_network(
            source, destination, key=key, kind="generator", licence=licence, dataset=dataset
        )
    arch = load_generator(source).arch
    tensors, description = load_weights(source)
    save_weights(destination, tensors, {"licence": licence, "dataset": dataset, **description})
    return arch


def write_identity(path: str | Path, weights: str | Path) -> None:
    """Write the small file that tells weights from others: their SHA-256, source, licence, architecture.

    It changes only when the weights do, so it is what a workflow watches instead of them.
    """
    _, description = load_weights(weights)
    facts = {key: description.get(key) for key in ("kind", "source", "licence", "arch")}
    write_json(path, {"sha256": sha256(weights), **facts})


def _architecture(source: str | Path, arguments: dict[str, Any]) -> Architecture:
    given = {name: value for name, value in arguments.items() if name not in WITHOUT_EFFECT}
    if given.pop("sigma_data", SIGMA_DATA) != SIGMA_DATA:
        raise UserError(f"{source} holds a network for images of another variance; sigma_data must be 0.5.")
    for name, value in given.items():
        entries = value if isinstance(value, list) else [value]
        large = any(isinstance(entry, int) and entry > LARGEST_ARGUMENT for entry in entries)
        if large or len(f"{name}{value}") > LONGEST_ARGUMENT:
            raise UserError(f"{source} holds a network with a '{name[:60]}' that no published one has.")
    model_type = str(given.setdefault("model_type", "DhariwalUNet"))
    return parse(Architecture, FALLBACKS.get(model_type, {}) | given, source)


def _compare(source: str | Path, found: Architecture, expected: Architecture) -> None:
    def in_full(arch: Architecture) -> dict[str, Any]:
        """Return what decides a network's function, with the family's defaults written out."""
        defaults = {"num_blocks": arch.blocks_per_level, "attn_resolutions": arch.attention_resolutions}
        return arch.for_one_step().model_copy(update=defaults).model_dump()

    has = in_full(found)
    for key, value in in_full(expected).items():
        if has[key] != value:
            raise UserError(
                f"{source} holds a network whose '{key}' is {has[key]!r}, but the teacher's file says "
                f"{value!r}; correct that file, or fetch the network it means."
            )
