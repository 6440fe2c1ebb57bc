"""Files with a few wrong bytes, and what a reader makes of them."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gdd.errors import UserError

COUNT = 500 if os.environ.get("GDD_ALL") else 20  # for each reader
SECONDS, MIB = 5, 512  # that reading a file of some kilobytes may take
LONGEST = 5_000  # characters of a sentence
VALUE = re.compile(rb'"[^"\n]*"|-?\b\d[\d.e+_-]*|\b(?:true|false|null)\b')
TEXTS = [
    b"-1",
    b"0",
    b"9" * 25,
    b"1e999",
    b"NaN",
    b"null",
    b"[]",
    b"{}",
    b'"x"',
    b'"\\u001b[2J"',
    b"true",
    b"*a",
]
NUMBERS = [0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


class Outcome(NamedTuple):
    """What became of so many files."""

    accepted: int
    refused: int
    seconds: float  # the longest
    mib: float  # the most above what the process had before


def mutated(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield the same changes of a file each time; most are where formats have their headers and directories."""
    rng = random.Random(seed)
    while count > 0:
        wrong = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 5))):
            rng.choice(CHANGES)(wrong, rng)
        if wrong != content:
            count -= 1
            yield bytes(wrong)


def _place(file: bytearray, rng: random.Random) -> int:
    end = len(file)
    return rng.choice(
        (
            rng.randrange(min(end, 600) or 1),
            end - 1 - rng.randrange(min(end, 600) or 1),
            rng.randrange(end or 1),
        )
    )


def _span(file: bytearray, rng: random.Random) -> slice:
    start = _place(file, rng)
    return slice(start, start + rng.choice((1, 4, 30, 512, 2000)))


def _flip(file: bytearray, rng: random.Random) -> None:
    if file:
        file[_place(file, rng)] ^= 1 << rng.randrange(8)


def _truncate(file: bytearray, rng: random.Random) -> None:
    del file[_place(file, rng) :]


def _insert(file: bytearray, rng: random.Random) -> None:
    at = _place(file, rng)
    file[at:at] = rng.choice((rng.randbytes(rng.choice((1, 8, 300))), b"\0" * 8, b"\xff" * 8, b"[" * 2000))


def _duplicate(file: bytearray, rng: random.Random) -> None:
    at, span = _place(file, rng), _span(file, rng)
    file[at:at] = file[span]


def _delete(file: bytearray, rng: random.Random) -> None:
    del file[_span(file, rng)]


def _number(file: bytearray, rng: random.Random) -> None:
    at, width, order = max(0, _place(file, rng)), rng.choice((2, 4, 8)), rng.choice(("little", "big"))
    file[at : at + width] = (rng.choice(NUMBERS) % 256**width).to_bytes(width, order)


def _text(file: bytearray, rng: random.Random) -> None:
    found = list(VALUE.finditer(file[:20_000])) or list(re.finditer(rb"\d+", file))
    if found:
        start, end = rng.choice(found).span()
        file[start:end] = rng.choice(TEXTS)


def _octal(file: bytearray, rng: random.Random) -> None:
    """Change a number of the same length, as headers of a .tar and of an .npy have them."""
    found = list(re.finditer(rb"\d+", file[:60_000]))
    if found:
        start, end = rng.choice(found).span()
        file[start:end] = bytes(rng.choice(b"01789-") for _ in range(end - start))


def _splice(file: bytearray, rng: random.Random) -> None:
    at, half = _place(file, rng), len(file) // 2
    file[:] = rng.choice((file[half:] + file[:half], file[:at] + file[half:], file + file))


CHANGES = (_flip, _truncate, _insert, _duplicate, _delete, _number, _number, _text, _text, _octal, _splice)


def told(name: str, read: Callable[[], Any], files: list[Path]) -> None:
    """Check that the whole files are read, then the changed ones; print what became of them."""
    read()
    outcome = try_all(read, files)
    print(
        f"{name}: {COUNT} changed files, {outcome.accepted} read, {outcome.refused} refused, "
        f"at most {outcome.seconds:.2f} s and {outcome.mib:.0f} MiB"
    )


def try_all(read: Callable[[], Any], files: Sequence[Path], count: int = COUNT) -> Outcome:
    """Let `read` read the files in a process of its own, each time one of them being changed.

    Each has to be read, or refused in one sentence, soon and without much memory; else the test fails and the
    changed file stays as it was. All are whole at the end.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(read, files, count, sender))
    process.start()
    sender.close()
    try:
        lines = [receiver.recv()]
        while not isinstance(lines[-1], Outcome):
            lines.append(receiver.recv())
    except EOFError:
        lines.append("a change ended the process")
    process.join()
    *problems, outcome = lines
    assert isinstance(outcome, Outcome), [*problems, f"{outcome} (exit code {process.exitcode})"]
    assert not problems, "\n".join([f"{len(problems)} changes:", *problems])
    assert outcome.accepted + outcome.refused == count
    return outcome


def _child(read: Callable[[], Any], files: Sequence[Path], count: int, sender: Any) -> None:
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    room = int(_status("VmSize") * 1024) + 2**32
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, accepted, refused, longest = _status("VmHWM"), 0, 0, 0.0
    shares = [count // len(files) + (index < count % len(files)) for index in range(len(files))]
    for file, share in zip(files, shares, strict=True):
        whole = file.read_bytes()
        for index, content in enumerate(mutated(whole, share)):
            file.write_bytes(content)
            signal.alarm(30)
            start, problem = time.monotonic(), ""
            try:
                read()
                accepted += 1
            except UserError as error:
                refused += 1
                message = str(error)
                if not (message.isprintable() and message.endswith(".") and len(message) < LONGEST):
                    problem = f"no sentence: {message[:300]!r}"
            except BaseException:
                problem = "".join(traceback.format_exc().splitlines(keepends=True)[-5:])
            seconds = time.monotonic() - start
            longest = max(longest, seconds)
            if seconds > SECONDS:
                problem += f" took {seconds:.1f} s"
            if problem:
                sender.send(f"{file.name}, change {index}: {problem}")
        file.write_bytes(whole)
    signal.alarm(0)
    # A process counts as its own what the one had that started it.
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    mib = (max(_status("VmHWM"), children) - before) / 1024
    if mib > MIB:
        sender.send(f"{mib:,.0f} MiB")
    sender.send(Outcome(accepted, refused, longest, mib))
    os._exit(0)


def _status(key: str) -> int:
    """Return kB."""
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]
