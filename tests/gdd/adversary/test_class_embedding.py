from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gdd.adversary.class_embedding import load_class_embedding
from gdd.errors import UserError

PUBLISHED = Path(__file__).resolve().parents[4] / "shared" / "real" / "stylegan-xl-tf_efficientnet_lite0.pkl"


def written(path: Path, value: Any, protocol: int = 4) -> Path:
    (path / "embed.pkl").write_bytes(pickle.dumps(value, protocol))
    return path / "embed.pkl"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_gives_the_first_rows(tmp_path: Path, protocol: int) -> None:
    embed = nn.Embedding(1000, 320)
    path = written(tmp_path, {"embed": embed}, protocol)
    rows = load_class_embedding(path, 10)
    assert torch.equal(rows, embed.weight[:10])
    assert rows.untyped_storage().nbytes() == 10 * 320 * 4  # the file's other rows are let go
    with pytest.raises(UserError, match="have 1000 rows, but there are 1001 classes"):
        load_class_embedding(path, 1001)


def test_the_published_table() -> None:
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
        ({"embed": nn.Embedding(10, 320)}, r"embed.pkl holds no table of \(1000, 320\) finite numbers"),
        (
            {"embed": nn.Embedding.from_pretrained(torch.full((1000, 320), torch.nan))},
            r"holds no table of \(1000, 320\) finite numbers",
        ),
        ({"embed": nn.Sequential()}, r"holds no table"),
        ({"embed": 3}, r"has something else in the place of a module"),
        ({"other": nn.Embedding(1000, 320)}, r"holds no 'embed' but other"),
        (nn.Embedding(1000, 320), r"is damaged, cut off or not what it should be"),
        ({"embed": nn.Linear(2, 2)}, r"asks for torch.nn.modules.linear.Linear, which no such file needs"),
    ],
)
def test_something_else_is_no_table(tmp_path: Path, value: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_class_embedding(written(tmp_path, value), 10)


def test_a_missing_file_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"nowhere do not exist; run `gdd fetch stylegan-xl-class-embeddings`"
    ):
        load_class_embedding(tmp_path / "nowhere", 10)
