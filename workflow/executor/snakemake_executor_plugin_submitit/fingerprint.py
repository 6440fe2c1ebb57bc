"""What a job is and does, as hashes that outlive the Snakemake that computed them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.parameters import Request
from snakemake_executor_plugin_submitit.registry import Print

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def fingerprint(job: Any, request: Request) -> Print:
    """Return what identifies `job` (one job or a group) and whether it is still the same."""
    parts = sorted(job.jobs, key=_identity) if job.is_group() else [job]
    return Print(
        _hash(_identity(part) for part in parts),
        _hash(line for part in parts for line in _work(part)),
        _hash([request.key]),
    )


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:24]


def _identity(job: Any) -> str:
    """Return the rule with its outputs, or with its wildcards if it has none."""
    outputs = [str(file) for file in job.output]
    return repr((job.rule.name, outputs or sorted(job.wildcards_dict.items())))


def _work(job: Any) -> Iterable[str]:
    yield _identity(job)
    rule = job.rule
    for code in (job.shellcmd, rule.script, rule.notebook, rule.wrapper, rule.cwl):
        yield _plain(code)
    yield _plain(getattr(rule, "run_func_src", None))
    script = rule.script or rule.notebook
    if script is not None:
        for place in (Path(str(script)), Path(str(rule.basedir)) / str(script)):
            if place.is_file():
                yield hashlib.sha256(place.read_bytes()).hexdigest()
    yield _plain(dict(job.params.items()) if hasattr(job.params, "items") else job.params)
    yield _plain(list(job.params))
    for file in job.input:
        yield f"{file} {'' if getattr(file, 'is_ancient', False) else _state(str(file))}"


def _state(file: str) -> str:
    """Return what changes when a file is written again: another input is other work."""
    try:
        stat = Path(file).stat()
    except OSError:
        return "absent"
    return str(stat.st_mtime_ns) if Path(file).is_dir() else f"{stat.st_mtime_ns} {stat.st_size}"


def _plain(value: object) -> str:
    return _ADDRESS.sub("", repr(value) if not isinstance(value, str) else value)
