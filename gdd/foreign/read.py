"""The one way to read what others pickled: in a process of its own, which nothing but data leaves.

Published networks, class embeddings and CIFAR-10's batches are pickles, and loading one the ordinary way runs
whatever its author wrote into it. `inert.py` says what is accepted instead.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, Literal, cast

import torch
from torch import Tensor

from gdd.errors import UserError

START = "import sys; sys.path += sys.argv[1:2]; from gdd.foreign.child import main; main(*sys.argv[2:])"
ROOT = Path(__file__).resolve().parents[2]
LARGEST = 2_500_000_000  # bytes; EDM's largest network (ADM of ImageNet, 296 M parameters) has 1.2 GB
HEADER = 2**22  # bytes for what is not tensors
Kind = Literal["network", "embedding", "batch", "archive"]


def read_foreign(
    source: str | Path | bytes, kind: Kind, key: str = "", *, called: str = ""
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what is not tensors in a file, as JSON holds it, and tensors by dotted name.

    Args:
        source: a file, or what is in it.
        kind: `network` (the dict `arguments`, a `class_name`, weights), `embedding` (a `weight`), `batch` (of
            CIFAR-10: lists, and arrays of bytes), or `archive` (the tensors of a TorchScript archive).
        key: where in the pickled dict the network or embedding stands; how the names in an archive begin.
        called: what messages call the file, if not by its path.

    Raises:
        UserError: it is missing, damaged, larger than anything published, or asks for anything to be run.
    """
    if isinstance(source, bytes):
        with tempfile.TemporaryFile() as file:
            file.write(source)
            file.seek(0)
            return _read(file, kind, key, called)
    if not Path(source).is_file():
        raise UserError(f"{called or source} does not exist or is no file.")
    with Path(source).open("rb") as file:
        return _read(file, kind, key, called or str(source))


def _read(file: IO[bytes], kind: Kind, key: str, where: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    size = os.fstat(file.fileno()).st_size
    if size > LARGEST:
        raise UserError(
            f"{where} has {size:,} bytes, more than anything published; check where it comes from."
        )
    answer = bytearray(size + HEADER)
    command = [sys.executable, "-I", "-S", "-B", "-c", START, str(ROOT), kind, key]
    with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        watchdog = threading.Timer(60 + size / 10**7, process.kill)
        watchdog.start()
        try:
            length = cast(io.BufferedReader, process.stdout).readinto(answer)
        finally:  # it has ended, or is of no more use
            process.kill()
            watchdog.cancel()
    end = answer.find(b"\n", 0, length)
    if process.returncode or end < 0:
        raise UserError(
            f"{where} takes more time or memory than anything published, or breaks the reader; "
            "check where it comes from."
        )
    header = json.loads(answer[:end])
    if "problem" in header:
        raise UserError(f"{where} {header['problem']}.")
    tensors, start = {}, end + 1
    for name, (dtype, count, offset, shape, stride) in header["tensors"].items():
        numbers = torch.frombuffer(answer, dtype=getattr(torch, dtype), count=count, offset=start)
        tensors[name] = numbers.as_strided(shape, stride, offset)
        start += numbers.nbytes
    return header["facts"], tensors
