"""Pickles that CIFAR-10's archive holds, and pickles that are up to no good."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from python2_pickle import python2

from gdd.errors import UserError
from gdd.foreign.child import answer
from gdd.foreign.inert import DAMAGED
from gdd.foreign.read import read_foreign

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 32, 32), dtype=np.uint8)
BATCH = {b"labels": [0, 1, 2, 0], b"data": IMAGES[0].reshape(4, -1)}
META = {b"num_cases_per_batch": 4, b"label_names": [b"airplane", b"automobile"], b"num_vis": 3072}


@pytest.mark.parametrize("core", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_plain_content(core: str) -> None:
    value = {b"a": [1, 2**30, -5, [True, None, 1.5]], b"b": IMAGES[0, 0]}
    facts, arrays = read_foreign(python2(value, core), "batch", called="a batch")
    assert facts == {"a": value[b"a"]}
    assert np.array_equal(arrays["b"].numpy(), IMAGES[0, 0])


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


HOSTILE: dict[str, tuple[bytes, str]] = {
    "system": (
        pickle.dumps(Calls(os.system, "touch canary"), 2),
        "asks for posix.system, which no such file",
    ),
    "system in a batch": (
        python2({**BATCH, b"filenames": Calls(os.system, "touch canary")}),
        "asks for posix.system",
    ),
    "eval": (pickle.dumps(Calls(eval, "open('canary', 'w')"), 4), "asks for builtins.eval"),
    "text protocol": (pickle.dumps(Calls(os.system, "touch canary"), 0), "asks for posix.system"),
    "codecs": (pickle.dumps(b"bytes", 2), "asks for _codecs.encode"),
    "numpy's loader": (b"\x80\x02cnumpy\nload\nX\x06\0\0\0canary\x85R.", "asks for numpy.load"),
    "another name of numpy": (
        b"\x80\x02cnumpy.core.multiarray\nscalar\n.",
        "asks for numpy.core.multiarray.scalar",
    ),
    "dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", "asks for numpy.ndarray.__init__"),
    "old instance": (b"(i__main__\nCanary\n.", "asks for __main__.Canary"),
    "a tensor": (pickle.dumps({"data": torch.zeros(1)}), "asks for torch._utils._rebuild_tensor_v2"),
    "persistent name": (b"Pcanary\n.", DAMAGED),
    "state of the maker": (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x01\0\0\0xK\x01sb.", DAMAGED),
    "array as a function": (b"\x80\x02cnumpy\nndarray\n)R.", DAMAGED),
    "array without a state": (b"\x80\x02}X\x01\0\0\0acnumpy\ndtype\n)Rs.", DAMAGED),
    "dtype of objects": (python2({b"a": np.array([[None]], dtype=object)}), "is not of bytes in row order"),
    "array too short": (
        python2({b"a": IMAGES[0, 0]}).replace(b"K\x03K\x20K\x20", b"K\x04K\x20K\x20"),
        "reaches beyond its numbers",
    ),
    "memo": (b"\x80\x02}r\xff\xff\xff\xff.", "takes more time or memory"),
    "huge text": (b"\x80\x02T\xff\xff\xff\x7f.", "takes more time or memory"),
    "names with an escape sequence": (python2({b"label_names": [b"\x1b[2J"]}), "special characters"),
    "not a dict": (python2([1]), DAMAGED),
    "no stop": (b"\x80\x02}", DAMAGED),
    "later protocol": (b"\x80\x09N.", DAMAGED),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, sentence = HOSTILE[name]
    with pytest.raises(UserError, match=r"^a batch [^\n]*\.$") as caught:
        read_foreign(content, "batch", called="a batch")
    assert sentence in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_nothing_but_prefixes() -> None:
    content = python2(META)
    for end in range(len(content)):
        assert DAMAGED.encode() in answer(io.BytesIO(content[:end]), "batch", "")[0]
    assert b"airplane" in answer(io.BytesIO(content), "batch", "")[0]
