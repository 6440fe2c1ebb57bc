from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gdd.adversary.published_weights import WeightsProblem, fill, load_class_embedding, read_state
from gdd.errors import UserError

PUBLISHED = Path(__file__).resolve().parents[4] / "shared" / "real" / "stylegan-xl-tf_efficientnet_lite0.pkl"


@pytest.mark.parametrize("zipped", [True, False])  # torch's format since 1.6, and the one before
@pytest.mark.parametrize("wrapped", [True, False])
def test_reads_what_torch_writes(tmp_path: Path, zipped: bool, wrapped: bool) -> None:
    path, state = tmp_path / "a.pth", OrderedDict(nn.Linear(2, 3).state_dict())
    torch.save({"model": state} if wrapped else state, path, _use_new_zipfile_serialization=zipped)
    found = read_state(path)
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
    filled, counter = net(), {"norm.num_batches_tracked": torch.tensor(7)}
    fill(filled, STATE | counter | {"head.weight": torch.zeros(3)}, unneeded=("head.",))
    for name, value in STATE.items():
        assert filled.state_dict()[name].dtype == torch.float32
        assert torch.equal(filled.state_dict()[name], value.float())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"norm.running_mean": None}, r"another network's \(1 tensors differ, .* 'norm.running_mean'\)"),
        ({"more": torch.zeros(1)}, r"\(1 tensors differ, the first is 'more'\)"),
        ({"conv.weight": torch.zeros(2, 1, 3, 3)}, r"'conv.weight'"),
    ],
)
def test_every_other_tensor_has_to_be_there_and_to_fit(changes: dict[str, Any], problem: str) -> None:
    state = {name: value for name, value in (STATE | changes).items() if value is not None}
    with pytest.raises(WeightsProblem, match=problem):
        fill(net(), state, unneeded=("head.",))


# --- class embeddings -----------------------------------------------------------------------------------


def written(path: Path, value: Any, protocol: int = 4) -> Path:
    (path / "embed.pkl").write_bytes(pickle.dumps(value, protocol))
    return path / "embed.pkl"


@pytest.mark.parametrize("protocol", [2, 5])
def test_gives_the_first_rows_of_class_embeddings(tmp_path: Path, protocol: int) -> None:
    embed = nn.Embedding(1000, 320)
    rows = load_class_embedding(written(tmp_path, {"embed": embed}, protocol), 10)
    assert torch.equal(rows, embed.weight[:10])
    assert rows.untyped_storage().nbytes() == 10 * 320 * 4  # the file's other rows are let go


def test_the_published_class_embeddings() -> None:
    if not PUBLISHED.is_file():
        pytest.skip("the published class embeddings are not part of this checkout")
    rows = load_class_embedding(PUBLISHED, 1000)
    assert (rows.dtype, tuple(rows.shape)) == (torch.float32, (1000, 320))
    content = PUBLISHED.read_bytes()
    start = content.index(rows.numpy().tobytes())  # to the bit, and nothing but the table is that long
    assert start < len(content) - 1_280_000
    digest = "c109f9a8a2371b78fbd464adaa51f82a4c0015db131b98ad74d8e63e0edcf2c6"
    assert hashlib.sha256(content).hexdigest() == digest


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"embed": nn.Embedding(9, 320)}, r"embed.pkl holds no 10 rows of 320 finite numbers under 'embed'"),
        (
            {"embed": nn.Embedding.from_pretrained(torch.full((10, 320), torch.nan))},
            r"holds no 10 rows of 320 finite numbers",
        ),
        ({"embed": nn.Embedding(1000, 300)}, r"embeddings` or set 'heads.class_embedding' to 'random'"),
        ({"embed": nn.Sequential()}, r"holds no 10 rows"),
        ({"embed": 3}, r"has something else in the place of a module"),
        (nn.Embedding(1000, 320), r"is damaged, cut off or not what it should be"),
        ({"embed": nn.Linear(2, 2)}, r"asks for torch.nn.modules.linear.Linear, which no such file needs"),
    ],
)
def test_something_else_is_no_table(tmp_path: Path, value: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_class_embedding(written(tmp_path, value), 10)
