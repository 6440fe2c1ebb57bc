"""The one way to read what others pickled: in a process of its own, which nothing but data leaves.

Published networks, class embeddings and CIFAR-10's batches are pickles, and loading one the ordinary way runs
whatever its author wrote into it. `inert.py` says what is accepted instead.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from gdd.errors import UserError
from gdd.foreign import inert

LARGEST = 2_500_000_000  # bytes; EDM's largest network (ADM of ImageNet, 296 M parameters) has 1.2 GB
HEADER = 2**22  # bytes for what is not tensors


def read_foreign(
    source: str | Path | bytes,
    kind: Literal["network", "batch", "archive"],
    key: str = "",
    *,
    called: str = "",
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what is not tensors in a file, as JSON holds it, and tensors by dotted name.

    Args:
        source: a file, or what is in it.
        kind: `network` (a `class_name`, the dict `arguments`, weights), `batch` (of CIFAR-10: lists, and
            arrays of bytes), or `archive` (the tensors of a TorchScript archive).
        key: where in the pickled dict the network stands; how the names in an archive begin.
        called: what messages call the file, if not by its path.

    Raises:
        UserError: it is missing, damaged, larger than anything published, or asks for anything to be run.
    """
    if isinstance(source, bytes):
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(source)
            return read_foreign(file.name, kind, key, called=called)
    path, where = Path(source), called or str(source)
    if not path.is_file():
        raise UserError(f"{where} does not exist or is no file.")
    size = path.stat().st_size
    if size > LARGEST:
        raise UserError(
            f"{where} has {size:,} bytes, more than anything published; check where it comes from."
        )
    answer, end = _confined(path, size, kind, key)
    if end < 0:
        raise UserError(
            f"{where} takes more time or memory than anything published, or breaks the reader; "
            "check where it comes from."
        )
    header = json.loads(answer[:end])
    if "problem" in header:
        raise UserError(f"{where} {header['problem']}.")
    return header["facts"], _tensors(header["tensors"], answer, end + 1)


def _confined(path: Path, size: int, kind: str, key: str) -> tuple[bytearray, int]:
    """Return what the confined process says of a file, and where its header ends; -1 if it failed."""
    answer = bytearray(size + HEADER)
    command = [sys.executable, "-I", "-S", inert.__file__, kind, key]
    with (
        path.open("rb") as content,
        subprocess.Popen(
            command, stdin=content, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process,
    ):
        length = cast(io.BufferedReader, process.stdout).readinto(answer)
        process.kill()  # it has ended, or says more than there can be
    return answer, -1 if process.returncode else answer.find(b"\n", 0, length)


def _tensors(described: dict[str, Any], answer: bytearray, start: int) -> dict[str, Tensor]:
    """Return the tensors that a header describes, whose values lie in `answer` one after the other."""
    tensors = {}
    for name, (dtype, count, offset, shape, stride) in described.items():
        values = torch.frombuffer(answer, dtype=getattr(torch, dtype), count=count, offset=start)
        tensors[name] = values.as_strided(shape, stride, offset)
        start += values.nbytes
    return tensors
