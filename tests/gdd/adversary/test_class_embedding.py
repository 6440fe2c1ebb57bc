from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from gdd.adversary.class_embedding import load_class_embedding
from gdd.errors import UserError


def test_gives_the_first_rows(tmp_path: Path) -> None:
    embed = nn.Embedding(1000, 320)
    path = tmp_path / "table.pkl"
    path.write_bytes(pickle.dumps({"embed": embed}))
    rows = load_class_embedding(path, 10)
    assert torch.equal(rows, embed.weight[:10])
    assert rows.untyped_storage().nbytes() == 10 * 320 * 4  # the file's other rows are let go
    with pytest.raises(UserError, match="have 1000 rows, but there are 1001 classes"):
        load_class_embedding(path, 1001)


def test_a_missing_file_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"nowhere do not exist; run `gdd fetch stylegan-xl-class-embeddings`"
    ):
        load_class_embedding(tmp_path / "nowhere", 10)
