"""The demo through SLURM, from nothing to its page, with the local run's numbers."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from daemons import wait_for
from slurm_cluster import SlurmCluster
from toy_workflow import ROOT, python_environment

pytestmark = [pytest.mark.workflow, pytest.mark.slurm, pytest.mark.slow]

TIMED = re.compile("second|memory|date|time|version|device|host|session|git|machine|resource", re.IGNORECASE)


def untimed(value: Any) -> Any:
    """Return data without what no two runs have in common."""
    if isinstance(value, dict):
        return {key: untimed(inner) for key, inner in value.items() if not TIMED.search(key)}
    if isinstance(value, list):
        timed = [isinstance(inner, dict) and TIMED.search(str(inner.get("column"))) for inner in value]
        return [untimed(inner) for inner, skip in zip(value, timed, strict=True) if not skip]
    return value


def numbers(results: Path) -> dict[str, Any]:
    """Return every result by its path: bytes of arrays and weights, content of the rest."""
    found: dict[str, Any] = {}
    for path in sorted(results.rglob("*")):
        parts = path.relative_to(results).parts
        name = "/".join(parts)
        if not path.is_file() or "state" in parts or parts[0] in ("logs", "benchmarks", "site", "figures"):
            continue
        if path.suffix in (".safetensors", ".npy", ".npz"):
            found[name] = path.read_bytes()
        elif path.suffix == ".json":
            found[name] = untimed(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[name] = [untimed(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                found[name] = [untimed(line) for line in csv.DictReader(file)]
    return found


@pytest.mark.parametrize(
    "kind", ["plain_cluster", pytest.param("accounted_cluster", marks=pytest.mark.thorough)]
)
def test_the_demo_through_slurm(
    kind: str, demo: Any, project: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without slurmdbd and with it."""
    cluster: SlurmCluster = request.getfixturevalue(kind)
    for name, value in (python_environment() | {"SLURM_CONF": cluster.environment["SLURM_CONF"]}).items():
        monkeypatch.setenv(name, value)
    said = project.snakemake("--profile", str(ROOT / "slurm"), "demo")
    assert "Error" not in said

    local, remote = (numbers(one.folder / "results") for one in (demo, project))
    assert set(local) == set(remote)
    assert len([name for name in local if name.endswith("metrics.json")]) >= 3
    for name, content in local.items():
        assert remote[name] == content, name
    for folder in ("site", "figures"):
        pages = [sorted(one.results(f"{folder}/*")) for one in (demo, project)]
        assert pages[0] == pages[1] != []
    assert project.planned("demo") == set()
    assert not cluster.queue()
    # Training and evaluation went to the cluster, what takes a second stayed.
    submitted = set(re.findall(r"^\S+ (\w+)(?: .*)?: submitted as SLURM", said, re.MULTILINE))
    assert {"teacher", "distill", "evaluate_run", "evaluate_teacher"} <= submitted
    assert not {"table", "page"} & submitted


def test_a_job_in_the_queue_makes_what_was_planned(
    made: Any, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when its workflow was killed while it waited."""
    for name, value in (python_environment() | {"SLURM_CONF": cluster.environment["SLURM_CONF"]}).items():
        monkeypatch.setenv(name, value)
    run = "results/runs/digits/gdd/seed7/run.json"
    command = made.command("--profile", str(ROOT / "slurm"), run)
    nodes = f"NodeName={','.join(cluster.nodes)}"
    cluster.ask("scontrol", "update", nodes, "State=DRAIN", "Reason=full")
    first = subprocess.Popen(command, env=made.environment, cwd=made.folder, stdout=subprocess.DEVNULL)
    wait_for("a waiting job", cluster.queue, 120)
    made.edit("settings/digits.yaml", lambda data: data["recipe"].update(images=320))
    first.kill()
    first.wait()
    cluster.ask("scontrol", "update", nodes, "State=RESUME")
    wait_for("the job's end", lambda: not cluster.queue(), 180)
    assert json.loads((made.folder / run).read_text())["images"] == 256
