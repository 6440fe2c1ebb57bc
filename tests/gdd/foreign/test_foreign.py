"""What others pickled: networks, batches and archives come back as they were."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edm_writer import Foreign
from hypothesis import given, settings
from hypothesis import strategies as st
from python2_pickle import python2
from torch import Tensor, nn

from gdd.errors import UserError
from gdd.foreign.inert import NETWORKS, SIZES, Reader
from gdd.foreign.read import read_foreign

TEXT = st.text(st.characters(codec="utf-8"), max_size=50)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**100), 2**100) | st.floats(allow_nan=False) | TEXT,
    lambda inside: (
        st.lists(inside)
        | st.lists(inside).map(tuple)
        | st.dictionaries(TEXT, inside)
        | st.sets(TEXT)
        | st.binary(min_size=1, max_size=300)
    ),
    max_leaves=10,
)
Maker = Callable[[bool], Foreign]


@settings(deadline=None, max_examples=40)
@given(PLAIN, st.integers(2, 5))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    assert Reader(io.BytesIO(pickle.dumps(value, protocol)), NETWORKS).load() == value


@pytest.mark.parametrize("core", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_batches_come_back(core: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    value = {b"a": [1, 2**30, -5, [True, None, 1.5]], b"b": images}
    facts, arrays = read_foreign(python2(value, core), "batch", called="a batch")
    assert facts == {"a": value[b"a"]}
    assert np.array_equal(arrays["b"].numpy(), images)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_every_type_and_layout_come_back(
    foreign: Maker, tmp_path: Path, protocol: int, old: bool
) -> None:
    numbers = torch.arange(-3, 12).reshape(3, 5)
    tensors = {name: numbers.to(getattr(torch, name)) for name, _ in SIZES.values()} | {
        "scalar": torch.tensor(3.5),
        "channels_last": torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last),
        "transposed": torch.randn(3, 5).T,
        "part": torch.randn(6, 6)[2:5, ::2],
        "ones": torch.randn(1, 1, 2, 2).transpose(0, 1),
        "large": torch.randn(300_000),
    }
    maker = foreign(old)
    written = maker.write(tmp_path / "net.pkl", maker.network({"dropout": 0.5}, tensors, set()), protocol)
    facts, found = read_foreign(written, "network", "ema")
    assert facts["class_name"] == "EDMPrecond"
    assert facts["arguments"] == {"use_fp16": False, "sigma_max": float("inf"), "dropout": 0.5}
    same(found, tensors)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("container", [nn.ModuleDict, nn.ModuleList, nn.Sequential])
def test_containers_and_buffers(container: type[nn.Module], foreign: Maker, tmp_path: Path) -> None:
    maker, inside = foreign(False), container()
    inside._modules["0"] = maker.network({}, {"weight": torch.zeros(1)}, set())
    outer = maker.network({}, {"kept": torch.ones(1), "passing": torch.ones(1)}, {"kept", "passing"})
    outer.meta["state"]["_non_persistent_buffers_set"].add("passing")
    outer.meta["state"]["_modules"]["blocks"] = inside
    _, found = read_foreign(maker.write(tmp_path / "net.pkl", outer), "network", "ema")
    assert sorted(found) == ["blocks.0.weight", "kept"]


def test_ambiguous_networks_are_refused(foreign: Maker, tmp_path: Path) -> None:
    def refused(sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            read_foreign(maker.write(tmp_path / "net.pkl", network), "network", "ema")

    maker = foreign(False)
    network = maker.network({}, {"a": torch.zeros(1)}, set())
    state = network.meta["state"]
    state["_init_args"] = (3,)
    refused("arguments have no names")
    state["_modules"]["b"] = state["_modules"]["c"] = maker.network({}, {"a": torch.ones(1)}, set())
    refused("share their values")
    state["_buffers"]["a"] = torch.ones(1)
    refused("two tensors named a")


class Tower(nn.Module):
    """Parameters of its own, in a module, and of half precision; constants and lists beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(3).half())
        self.inner = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ModuleDict({"deep": nn.Linear(4, 5)})["deep"])
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("part", torch.arange(12.0).reshape(3, 4)[:, 1:3])
        self.sizes = [1, 2, 3]
        self.side = 224

    def forward(self, x: Tensor) -> Tensor:
        return x * self.side + self.sizes[0]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = Tower()
        self.text = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.visual(x)


def test_torchscript_archives(tmp_path: Path) -> None:
    net, path = Pair(), tmp_path / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(path)
    state = net.state_dict()
    same(read_foreign(path, "archive")[1], state)
    tower = read_foreign(path, "archive", "visual.")[1]
    assert tower.keys() == {name for name in state if name.startswith("visual.")}

    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"net\.pt is damaged"):
        read_foreign(path, "archive")
    for name, sentence in (("readme", r"net\.pt is damaged"), ("net/data.pkl", r"asks for os\.system")):
        with zipfile.ZipFile(path, "w") as hostile:
            hostile.writestr(name, b"\x80\x02cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(UserError, match=sentence):
            read_foreign(path, "archive")
