"""Networks on disk: safetensors whose header says, as JSON, what the weights are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gdd.config.architecture import Architecture
from gdd.config.record import Positive, Record, parse
from gdd.errors import UserError, in_a_line
from gdd.files import atomic_path, sha256
from gdd.networks.preconditioning import Denoiser, OneStep, OneStepGenerator, TwoTimeGenerator

NetworkT = TypeVar("NetworkT", Denoiser, OneStepGenerator)

KINDS = {Denoiser: "denoiser", OneStepGenerator: "generator", TwoTimeGenerator: "two-time generator"}

MOST_HEADER = 1 << 24  # bytes of names, shapes and the description of a network; the largest has 100,000


class _OneStep(Record):
    sigma: Positive = OneStep().sigma
    coefficients: Literal["boundary", "edm"] = OneStep().coefficients


class _Sampling(Record):
    """What a generator's description says of its sampling, where it differs from this."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 1
    renoise: bool = True
    one_step: _OneStep = _OneStep()


def save_weights(path: str | Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    """Write tensors in their own dtype, and `description` (plain JSON values) in the same file's header.

    Returns the SHA-256 of what was to be written, whatever the disk makes of it.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # By way of memory, because safetensors turns a full disk into an error of its own kind.
    content = save(plain, metadata={"gdd": json.dumps(description, sort_keys=True)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors by name, in the order of their file, and the description.

    Raises:
        UserError: the file is missing, broken, or was not written by `save_weights`.
    """
    try:
        with Path(path).open("rb") as begin:
            length = int.from_bytes(begin.read(8), "little")
        if length > MOST_HEADER:
            raise OSError(f"its header would have {length:,} bytes, more than {MOST_HEADER:,}")
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("gdd")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"The weights {path} do not exist.") from None
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"The weights {path} cannot be read ({in_a_line(error)}); delete the file and make it again."
        ) from None
    if header is None:
        raise UserError(f"{path} is a safetensors file without a description from gdd; import it first.")
    try:
        description = json.loads(header)
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise UserError(f"The description in {path} is no JSON object; delete the file and make it again.")
    return tensors, description


def save_network(path: str | Path, network: Denoiser | OneStepGenerator, **description: Any) -> str:
    """Write the weights in float32 with kind, architecture and `description` (JSON values) beside them.

    Returns the file's SHA-256 as `save_weights` does.
    """
    description |= {"kind": KINDS[type(network)], "arch": network.arch.model_dump(mode="json")}
    if isinstance(network, OneStepGenerator):
        if network.steps > 1:
            description["steps"] = network.steps
        if not network.renoise:
            description["renoise"] = False
        if network.one_step != OneStep():
            description["one_step"] = network.one_step._asdict()
    return save_weights(path, network.state_dict(), description)


def load_denoiser(path: str | Path) -> Denoiser:
    """Read a teacher, in eval mode on the CPU.

    Raises:
        UserError: the file is missing, broken, no denoiser, or does not fit the architecture it names.
    """
    return _load(path, Denoiser)


def load_generator(path: str | Path) -> OneStepGenerator:
    """Read a student, in eval mode on the CPU; one that knows two times comes as `TwoTimeGenerator`.

    Raises:
        UserError: the file is missing, broken, no generator, or does not fit the architecture it names.
    """
    return _load(path, OneStepGenerator)


def _load(path: str | Path, wanted: type[NetworkT]) -> NetworkT:
    weights, description = load_weights(path)
    found = description.get("kind")
    kind = next((kind for kind, name in KINDS.items() if name == found and issubclass(kind, wanted)), None)
    if kind is None:
        holds = f"a {found}" if found else "no network"
        raise UserError(f"{path} holds {holds}, but a {KINDS[wanted]} is needed here; give the path of one.")
    arch = parse(Architecture, description.get("arch"), path)
    with torch.device("meta"):  # no memory and no time for weights that are replaced at once
        network = kind(arch)
    if isinstance(network, OneStepGenerator):
        given = {key: description[key] for key in _Sampling.model_fields if key in description}
        how = parse(_Sampling, given, path)
        network.steps, network.renoise = how.steps, how.renoise
        network.one_step = OneStep(how.one_step.sigma, how.one_step.coefficients)
    check_fit(path, network.state_dict(), weights)
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return network.eval()


def check_whole(files: Sequence[Path], hashes: Any, where: Path) -> None:
    """Refuse snapshots that are not as they were written, by the hashes that stand in the file `where`.

    Those of earlier versions have no hash.

    Raises:
        UserError: naming the first that is damaged.
    """
    if not isinstance(hashes, dict):
        raise UserError(f"{where}: 'snapshots' holds no hashes by name; delete it and train the run again.")
    for file in files:
        if file.stem in hashes and (found := sha256(file)) != hashes[file.stem]:
            run = file.parents[1]
            raise UserError(
                f"The snapshot {file} is damaged: its SHA-256 is {found}, that written {hashes[file.stem]}; "
                f"copy it anew from where it is whole, or delete {run} and train the run again with "
                f"`snakemake --cores 2 {run}/metrics.json`."
            )


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
