"""Pickles of the shape in which EDM publishes its networks, written without its code."""

from __future__ import annotations

import codecs
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

TINY: dict[str, Any] = {
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 2,
    "augment_dim": 3,
    "model_channels": 8,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (),
    "dropout": 0.2,
    "embedding_type": "fourier",
    "encoder_type": "residual",
}
TINY_ARGUMENTS = {key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items()}

CLASSES = {"map_layer0": "Linear", "enc": "ModuleDict", "dec": "ModuleDict"}


class Persistent:
    """An object whose class travels as source text, as `torch_utils.persistence` pickles it."""

    def __init__(self, class_name: str, state: dict[str, Any], module_src: str = "") -> None:
        self.meta = {"type": "class", "version": 6, "module_src": module_src}
        self.meta |= {"class_name": class_name, "state": state}

    def __reduce__(self) -> Any:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


class Scalar:
    """A numpy scalar; `old` as numpy 1 and Python 2's protocol wrote it."""

    def __init__(self, value: float | int, old: bool) -> None:
        self.value = np.float64(value) if isinstance(value, float) else np.int64(value)
        self.old = old

    def __reduce__(self) -> Any:
        module = sys.modules["numpy.core.multiarray" if self.old else "numpy._core.multiarray"]
        content: Any = self.value.tobytes()
        return module.scalar, (self.value.dtype, Encoded(content) if self.old else content)


class Encoded:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> Any:
        return codecs.encode, (self.content.decode("latin1"), "latin1")


class Foreign:
    """Modules that are not installed here, under the names that pickles of EDM know."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, old: bool) -> None:
        self.old = old
        self._monkeypatch = monkeypatch
        self.add("torch_utils.persistence._reconstruct_persistent_obj", lambda *_: None)
        self.add("numpy.core.multiarray.scalar", lambda *_: None)
        name = "dnnlib.EasyDict" if old else "dnnlib.util.EasyDict"
        self.easy_dict = self.add(name, type("E", (dict,), {}))

    def add(self, name: str, value: Any) -> Any:
        """Make `value` importable, and thus picklable, as `name`."""
        *packages, own = name.split(".")
        for length in range(1, len(packages) + 1):
            module = ".".join(packages[:length])
            if module not in sys.modules or not isinstance(sys.modules[module], types.ModuleType):
                self._monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        module_object = sys.modules[".".join(packages)]
        value.__module__, value.__name__, value.__qualname__ = module_object.__name__, own, own
        self._monkeypatch.setattr(module_object, own, value, raising=False)
        return value

    def module(
        self, class_name: str, tensors: dict[str, Tensor], buffers: set[str], src: str, **extra: Any
    ) -> Any:
        """Return a module that holds `tensors`, by dotted name, in modules inside it."""
        state: dict[str, Any] = {
            "training": False,
            "_parameters": OrderedDict(),
            "_buffers": OrderedDict(),
            "_non_persistent_buffers_set": set(),
            "_forward_hooks": OrderedDict(),
            "_is_full_backward_hook": None,
            "_modules": OrderedDict(),
        }
        children: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            child, _, rest = name.partition(".")
            if rest:
                children.setdefault(child, {})[rest] = tensor
            elif name in buffers:
                state["_buffers"][name] = tensor
            else:
                state["_parameters"][name] = nn.Parameter(tensor, requires_grad=False)
        for child, inside in children.items():
            kept = {name.removeprefix(f"{child}.") for name in buffers if name.startswith(f"{child}.")}
            state["_modules"][child] = self.module(CLASSES.get(child, "UNetBlock"), inside, kept, src)
        if class_name == "ModuleDict":
            container = nn.ModuleDict()
            container.__dict__ |= state
            return container
        state["_parameters"].setdefault("absent", None)
        state |= {"_init_args": (), "_init_kwargs": {}, "skip_scale": Scalar(0.5**0.5, self.old), **extra}
        return Persistent(class_name, state, src)

    def network(
        self,
        arguments: dict[str, Any],
        tensors: dict[str, Tensor],
        buffers: set[str],
        class_name: str = "EDMPrecond",
        src: str = "import torch\n",
    ) -> Any:
        """Return what `ema` is: a preconditioned U-Net with the constructor's arguments."""
        return self.module(
            class_name,
            tensors,
            buffers,
            src,
            _init_kwargs={"use_fp16": False, "sigma_max": float("inf"), **arguments},
            label_dim=arguments.get("label_dim", 0),
        )

    def write(self, path: Path, network: Any, protocol: int = 4, key: str = "ema", **others: Any) -> Path:
        """Pickle a network with what EDM's training puts beside it."""
        content = {
            key: network,
            "loss_fn": Persistent("EDMLoss", {"P_mean": -1.2, "_init_kwargs": {}}),
            "augment_pipe": Persistent("AugmentPipe", {"scale": Scalar(1.0, self.old)}),
            "dataset_kwargs": self.easy_dict(path="data.zip", use_labels=False),
            **others,
        }
        with path.open("wb") as file:
            pickle.dump(content, file, protocol)
        return path
