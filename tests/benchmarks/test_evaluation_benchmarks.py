"""The benchmarks of evaluation at a small size: both ways and both sides give the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(name: str, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Return what a benchmark writes and what it prints; it compares the values itself."""
    command = [sys.executable, f"benchmarks/{name}.py", *options, "--json", str(folder / "found.json")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads((folder / "found.json").read_text()), done.stdout


@pytest.mark.parametrize("every", [1, 8])
def test_pass_and_released_way(tmp_path: Path, every: int) -> None:
    found, printed = run(
        "evaluation", tmp_path, "--images", "300", "--features", "48", "--threads", "1",
        "--rounds", "2", "--network-every", str(every),
    )  # fmt: skip
    assert len(found["rounds"]) == 2
    for each in found["rounds"]:
        for way in ("pass", "released"):
            parts = each[way]
            assert parts["all"] == pytest.approx(parts["network"] + parts["other"])
            assert 0 < parts["images"] < parts["other"]
            assert parts["values"].keys() == {"fid", "precision", "recall", "inception_score"}
        assert each["pass"]["values"] == pytest.approx(each["released"]["values"], rel=1e-4)
    assert found["faster"].keys() == found["median"]["pass"].keys()
    assert "| all but the network |" in printed


def test_neighbours(tmp_path: Path) -> None:
    found, printed = run(
        "neighbours", tmp_path, "--points", "400", "--dimension", "300", "--threads", "1", "--rounds", "2"
    )
    assert len(found["rounds"]) == 2
    for each in found["rounds"]:
        assert each["gdd"]["values"] == pytest.approx(each["prdc"]["values"], abs=1e-6)
        assert all(side["peak_mebibytes"] >= side["mebibytes"] > 0 for side in each.values())
    assert "| peak memory, MiB |" in printed
