from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gdd.adversary.published_weights import WeightsProblem, fill, read_state


@pytest.mark.parametrize("zipped", [True, False])  # torch's format since 1.6, and the one before
@pytest.mark.parametrize("wrapped", [True, False])
def test_reads_what_torch_writes(tmp_path: Path, zipped: bool, wrapped: bool) -> None:
    state = OrderedDict(nn.Linear(2, 3).state_dict())
    torch.save(
        {"model": state} if wrapped else state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped
    )
    found = read_state(tmp_path / "a.pth")
    assert list(found) == ["weight", "bias"]
    assert all(torch.equal(found[name], state[name]) for name in state)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def test_refuses_what_is_no_state_dict_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.zeros(1000)}, path)
    broken = path.read_bytes()
    for content in (b"", b"<html>", broken[:500], broken[:-100], pickle.dumps(Hostile(), protocol=2)):
        path.write_bytes(content)
        with pytest.raises(WeightsProblem, match="cannot be read as weights"):
            read_state(path)
    for value in (torch.zeros(2), [torch.zeros(2)], {"weight": 3}, {"model": {"weight": [1.0]}}):
        torch.save(value, path)
        with pytest.raises(WeightsProblem, match="holds no tensors by name"):
            read_state(path)
    assert not Path("ran").exists()


def net() -> nn.Sequential:
    with torch.device("meta"):
        return nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 1), norm=nn.BatchNorm2d(2)))


STATE = {
    "conv.weight": torch.randn(2, 1, 1, 1).half(),
    "conv.bias": torch.randn(2),
    "norm.weight": torch.randn(2),
    "norm.bias": torch.randn(2),
    "norm.running_mean": torch.randn(2),
    "norm.running_var": torch.rand(2),
}


def test_fills_in_float32_and_passes_over_what_is_not_needed() -> None:
    filled = net()
    fill(filled, {**STATE, "head.weight": torch.zeros(3)}, unneeded=("head.",))
    for name, value in STATE.items():
        assert torch.equal(filled.state_dict()[name], value.float())
        assert filled.state_dict()[name].dtype == torch.float32
    fill(net(), {**STATE, "norm.num_batches_tracked": torch.tensor(7)}, unneeded=("head.",))


def test_every_other_tensor_has_to_be_there_and_to_fit() -> None:
    missing = {name: value for name, value in STATE.items() if name != "norm.running_mean"}
    with pytest.raises(
        WeightsProblem, match=r"another network's \(1 tensors differ, .* 'norm.running_mean'\)"
    ):
        fill(net(), missing, unneeded=("head.",))
    with pytest.raises(WeightsProblem, match=r"\(1 tensors differ, the first is 'more'\)"):
        fill(net(), {**STATE, "more": torch.zeros(1)}, unneeded=("head.",))
    with pytest.raises(WeightsProblem, match=r"'conv.weight'"):
        fill(net(), {**STATE, "conv.weight": torch.zeros(2, 1, 3, 3)}, unneeded=("head.",))
