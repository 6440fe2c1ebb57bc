from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gdd.adversary.published_weights import WeightsProblem
from gdd.metrics.torchscript_archive import read_archive


class Tower(nn.Module):
    """Parameters of its own, in a module, shared and of half precision; numbers and lists beside them."""

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


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    net = Pair()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(tmp_path / "net.pt")
    return tmp_path / "net.pt", net.state_dict()


def test_tensors_are_those_of_the_state_dict(archive: tuple[Path, dict[str, Tensor]]) -> None:
    path, state = archive
    found = read_archive(path)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    tower = read_archive(path, "visual.")
    assert tower.keys() == {name for name in state if name.startswith("visual.")}


def test_other_files_are_refused(tmp_path: Path, archive: tuple[Path, dict[str, Tensor]]) -> None:
    path, _ = archive
    (tmp_path / "half.pt").write_bytes(path.read_bytes()[:500])
    (tmp_path / "page.pt").write_text("<html>")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as other:
        other.writestr("readme", "nothing")
    with zipfile.ZipFile(tmp_path / "hostile.pt", "w") as hostile:
        hostile.writestr("net/data.pkl", b"\x80\x02cos\nsystem\n(S'true'\ntR.")
    for name, message in [
        ("half", "no whole TorchScript archive"),
        ("page", "no whole TorchScript archive"),
        ("other", "is no TorchScript archive"),
        ("hostile", r"asks for os\.system"),
    ]:
        with pytest.raises(WeightsProblem, match=message):
            read_archive(tmp_path / f"{name}.pt")
