"""The demo from nothing to its page, and what Snakemake makes again after which change."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gdd.config.config import load_config
from gdd.experiments import Experiments
from gdd.stages.showing import ablation_files

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

DEMO = OBJECTIVES, FROZEN = "demo-objectives", "demo-frozen-layers"
PAGE = "page: results/site/index.html"


def shown(table: str) -> set[str]:
    """Return the jobs that write what a person sees of a table."""
    return {
        f"table: results/tables/{table}.csv",
        f"figure: results/figures/{table}-curve.png",
        f"figure: results/figures/{table}-samples.png",
    }


@contextmanager
def put_back(path: Path) -> Iterator[None]:
    """Leave a file as it was, whatever happens to it."""
    before = path.read_bytes() if path.exists() else None
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


def test_everything_is_there(demo: Any) -> None:
    experiments = Experiments(load_config(demo.folder / "config"))
    results = demo.folder / "results"
    html = (results / "site" / "index.html").read_text(encoding="utf-8")
    for name in DEMO:
        with (results / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as table:
            cells = {cell for line in csv.reader(table) for cell in line}
        for file in ablation_files(experiments, name):
            assert (demo.folder / file).stat().st_size > 100
        for row in experiments.rows(name):
            assert row.title in cells
            assert row.title in html
            for run in row.runs:
                facts = json.loads((demo.folder / run.folder / "run.json").read_text())
                assert facts["recipe_hash"] == run.recipe.fingerprint()
                metrics = json.loads((demo.folder / run.folder / "metrics.json").read_text())
                assert [point["images"] for point in metrics["curve"]] == run.recipe.snapshots()
    files = [path for path in results.glob("teachers/digits/metrics/*.json") if "block" not in path.name]
    of_teachers = [json.loads(path.read_text()) for path in files]
    assert {metrics["kind"] for metrics in of_teachers} == {"teacher"}
    assert all(metrics["evaluations"] == 2 * metrics["sampler"]["steps"] - 1 for metrics in of_teachers)


def test_equal_bytes_with_a_new_time_are_no_change(demo: Any) -> None:
    for files in ("datasets/*/*", "features/*", "teachers/*/*.*", "references/*/*", "pairs/*/*"):
        touched = [path for path in (demo.folder / "results").glob(files) if path.is_file()]
        assert touched
        for path in touched:
            path.write_bytes(path.read_bytes())
    assert demo.planned("demo") == set()


def test_other_bytes_are_a_change(demo: Any) -> None:
    path = demo.folder / "results" / "teachers" / "digits" / "model.json"
    with put_back(path):
        path.write_text(json.dumps({"sha256": "0" * 64}))
        planned = demo.planned("demo")
    assert {job.split(":")[0] for job in planned} == {
        *("pairs", "distill", "evaluate_run", "evaluate_teacher"),
        *("table", "figure", "page"),
    }


def test_a_row_is_made_again_and_a_caption_costs_no_training(demo: Any) -> None:
    def change(data: dict[str, Any]) -> None:
        data["rows"]["GDD-I"]["lr"] = {"generator": 5e-4}

    row, caption = (f"ablations/{name}.yaml" for name in (FROZEN, OBJECTIVES))
    with put_back(demo.folder / "config" / row), put_back(demo.folder / "config" / caption):
        demo.edit(row, change)
        demo.edit(caption, lambda data: data.update(caption="Another caption."))
        planned = demo.planned("demo")
    run = "results/runs/digits/gdd-i.lr.generator-0.0005/seed0"
    made = {f"distill: {run}/run.json", f"evaluate_run: {run}/metrics.json"}
    assert planned == made | shown(FROZEN) | shown(OBJECTIVES) | {PAGE}


def test_a_file_of_ten_lines_is_a_new_target(demo: Any) -> None:
    text = (
        "title: Fresh fakes\n"
        "setting: digits\n"
        "rows:\n"
        "  Reused: {method: gdd, reuse_fakes: true}\n"
        "  Fresh: {method: gdd, reuse_fakes: false}\n"
        "columns: [fid, seconds]\n"
        "curve: fid\n"
    )
    path = demo.folder / "config/ablations/fresh-fakes.yaml"
    with put_back(path):
        path.write_text(text)
        planned = demo.planned("fresh-fakes", "demo")
    runs = {job.split(": ")[1] for job in planned if job.startswith("distill")}
    # One of the two rows is the table's plain GDD, whichever the setting says.
    assert len(runs) == 1
    assert "reuse_fakes" in runs.pop()
    rest = {job for job in planned if not job.startswith(("distill", "evaluate_run"))}
    assert rest == shown("fresh-fakes") | {"page: results/site/fresh-fakes.html"}
