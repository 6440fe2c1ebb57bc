"""Results with a few wrong bytes: a table is made of them, or refuses them in one sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mutations import told

from gdd.experiments import Experiments
from gdd.report.figures import _read_images, strip
from gdd.report.table import build_table
from gdd.training.log import TrainingLog
from gdd.watch import watch

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc"),
    pytest.mark.slow,
]
RUN = Path("results/runs/digits/gdd/seed0")


@pytest.mark.parametrize(
    "file",
    [
        RUN / "metrics.json",
        RUN / "run.json",
        Path("results/teachers/digits/metrics/digits-steps18.json"),
        Path("results/datasets/digits/identity.json"),
    ],
    ids=lambda file: file.stem,
)
def test_tables(file: Path, project: Callable[..., Experiments]) -> None:
    experiments = project()
    told(str(file), lambda: build_table(experiments, "objectives"), [file])


def test_pictures(project: Callable[..., Experiments]) -> None:
    file = project().rows("objectives")[-1].samples()
    told("samples", lambda: strip(_read_images(file)), [file])


def test_progress(tmp_path: Path) -> None:
    file = tmp_path / "run/state/progress.json"
    facts = {
        "name": "run",
        "status": "running",
        "images": 8,
        "total": 9,
        "images_per_second": 1.5,
        "host": "a",
    }
    facts |= {"seconds_left": 36, "losses": {"loss": 0.7}, "measured": {"fid": 3.5}, "updated": 1e9}
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(facts))
    told("progress.json", lambda: watch(tmp_path, once=True, interval=1), [file])


def test_log(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(
        "".join(json.dumps({"images": n, "loss": 0.5, "seconds": n / 7}) + "\n" for n in range(20))
    )
    told("log.jsonl", lambda: TrainingLog("run", tmp_path, 12, 20, 1.0), [file])
