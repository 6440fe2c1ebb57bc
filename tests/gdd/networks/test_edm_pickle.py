"""Pickles as data: plain values, tensors and tables come back as they were."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edm_writer import Foreign
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gdd.errors import UserError
from gdd.networks.edm_pickle import ALLOWED, read_embedding, read_network
from gdd.networks.inert_pickle import read_pickle
from gdd.networks.pickle_machine import Budget, PickleProblem, Record
from gdd.networks.torch_legacy import DTYPES, read_storage, view

TEXT = st.text(st.characters(codec="utf-8"), max_size=300)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**100), 2**100) | st.floats(allow_nan=False) | TEXT,
    lambda inside: (
        st.lists(inside) | st.lists(inside).map(tuple) | st.dictionaries(st.text(max_size=20), inside)
    ),
    max_leaves=20,
)


def read(content: bytes, allowed: set[str] = ALLOWED) -> Any:
    value, end = read_pickle(memoryview(bytearray(content)), allowed, Budget())
    assert end == len(content)
    return value


@settings(deadline=None)
@given(PLAIN, st.integers(2, 5))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("size", [0, 255, 256, 100_000])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_bytes_are_not_copied(size: int, protocol: int) -> None:
    content = pickle.dumps({"a": bytes(size)}, protocol)
    value, _ = read_pickle(memoryview(content), ALLOWED, Budget())
    assert (value["a"].obj, bytes(value["a"])) == (content, bytes(size))


def test_sets_come_back() -> None:
    assert read(pickle.dumps({"a", "b"}, 4)) == {"a", "b"}
    assert sorted(read(pickle.dumps({"a", "b"}, 3)).arguments[0]) == ["a", "b"]


def test_the_same_thing_stays_the_same_thing() -> None:
    inner: list[int] = [1]
    first, second = read(pickle.dumps((inner, inner)))
    assert first is second
    inner.append(inner)  # type: ignore[arg-type]
    found = read(pickle.dumps(inner))
    assert found[1] is found


def test_a_request_becomes_a_record() -> None:
    record = read(pickle.dumps(nn.Embedding(2, 3)))
    assert (type(record), record.name) == (Record, "torch.nn.modules.sparse.Embedding")
    assert (record.arguments, record.state["embedding_dim"]) == ((), 3)


def test_streams_follow_each_other() -> None:
    content = memoryview(b"".join(pickle.dumps(value, 2) for value in ("a", 1, None)))
    budget, at, values = Budget(), 0, []
    while at < len(content):
        value, at = read_pickle(content, ALLOWED, budget, at)
        values.append(value)
    assert values == ["a", 1, None]
    assert budget.operations < Budget().operations


def test_a_budget_is_for_a_whole_file() -> None:
    budget = Budget(operations=100, text=100)
    content = memoryview(pickle.dumps([1] * 40))
    read_pickle(content, ALLOWED, budget)
    read_pickle(content, ALLOWED, budget)
    with pytest.raises(PickleProblem, match="far more parts"):
        read_pickle(content, ALLOWED, budget)
    with pytest.raises(PickleProblem, match="far more parts"):
        read_pickle(memoryview(pickle.dumps("a" * 101)), ALLOWED, Budget(text=100))


def rebuilt(tensor: Tensor) -> Tensor:
    stored, offset, size, stride, *_ = read(pickle.dumps(tensor)).arguments
    return view(read_storage(stored.arguments[0], Budget()), offset, size, stride)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_tensors_of_every_type_come_back(dtype: torch.dtype) -> None:
    tensor = torch.arange(-3, 9).reshape(3, 4).to(dtype)
    found = rebuilt(tensor)
    assert found.dtype == dtype
    assert torch.equal(found, tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5),
        torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last),
        torch.randn(3, 5).T,
        torch.randn(6, 6)[2:5, ::2],
        torch.randn(1, 1, 2, 2).transpose(0, 1),
    ],
    ids=["scalar", "channels last", "transposed", "part", "ones"],
)
def test_tensors_of_every_layout_come_back(tensor: Tensor) -> None:
    assert torch.equal(rebuilt(tensor), tensor)


def test_half_the_buffers_are_not_kept(foreign: Callable[[bool], Foreign], tmp_path: Path) -> None:
    maker = foreign(False)
    tensors = {"a.kept": torch.zeros(1), "a.passing": torch.ones(1), "b.weight": torch.ones(2)}
    network = maker.network({}, tensors, {"a.kept", "a.passing"})
    network.meta["state"]["_modules"]["a"].meta["state"]["_non_persistent_buffers_set"].add("passing")
    for protocol in (3, 4, 5):
        found = read_network(maker.write(tmp_path / "net.pkl", network, protocol))
        assert sorted(found.tensors) == ["a.kept", "b.weight"]


@pytest.mark.parametrize("container", [nn.ModuleDict, nn.ModuleList, nn.Sequential])
def test_containers(container: type[nn.Module], foreign: Callable[[bool], Foreign], tmp_path: Path) -> None:
    maker = foreign(False)
    network = maker.network({}, {"weight": torch.zeros(1)}, set())
    inside = container()
    inside._modules["0"] = network
    outer = maker.network({"img_resolution": 8}, {"bias": torch.ones(1)}, set())
    outer.meta["state"]["_modules"]["blocks"] = inside
    found = read_network(maker.write(tmp_path / "net.pkl", outer))
    assert sorted(found.tensors) == ["bias", "blocks.0.weight"]
    assert found.arguments["img_resolution"] == 8


def test_shared_tensors_are_refused(foreign: Callable[[bool], Foreign], tmp_path: Path) -> None:
    maker, shared = foreign(False), torch.zeros(1)
    network = maker.network({}, {"a": shared}, set())
    network.meta["state"]["_modules"]["b"] = network.meta["state"]["_modules"]["c"] = maker.network(
        {}, {"a": shared}, set()
    )
    with pytest.raises(UserError, match="share their numbers"):
        read_network(maker.write(tmp_path / "net.pkl", network))


def written(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_an_embedding_comes_back(tmp_path: Path, protocol: int) -> None:
    embed = nn.Embedding(1000, 320)
    for value in (embed, embed.weight, embed.weight.detach()):
        found = read_embedding(written(tmp_path / "embed.pkl", {"embed": value}, protocol))
        assert torch.equal(found, embed.weight)


def test_an_embedding_can_be_trained(tmp_path: Path) -> None:
    path = written(tmp_path / "embed.pkl", {"embed": nn.Embedding(1000, 320).half()})
    before = path.read_bytes()
    found = read_embedding(path)
    found += 1
    assert found.dtype == torch.float32
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"embed": nn.Embedding(10, 320)}, r"embed.pkl holds no table of \(1000, 320\) under 'embed'"),
        ({"embed": torch.zeros(1000, 320, dtype=torch.long)}, r"holds no table"),
        ({"embed": 3}, r"has something else in the place of a network"),
        ({"other": nn.Embedding(1000, 320)}, r"has something else"),
        (nn.Embedding(1000, 320), r"lacks a dict"),
        ({"embed": nn.Linear(2, 2)}, r"asks for torch.nn.modules.linear.Linear, which is no part"),
    ],
)
def test_something_else_is_no_embedding(tmp_path: Path, value: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_embedding(written(tmp_path / "embed.pkl", value))
