"""What jobs asked for and used."""

from __future__ import annotations

import csv
from pathlib import Path

from plugin_doubles import FakeCluster, submitted

from snakemake_executor_plugin_submitit.report import Report
from snakemake_executor_plugin_submitit.verdict import Ended


class Accounted(FakeCluster):
    """Its accounting knows job 7 better than the job itself."""

    def used(self, job_ids: object) -> dict[str, dict[str, float]]:
        return {"7": {"seconds": 100, "cpu_seconds": 50, "mem_mb": 3900, "gpu_percent": 35}}


def test_a_table_and_a_file(tmp_path: Path) -> None:
    report = Report()
    used = {"seconds": 1800.0, "cpu_seconds": 1710.0, "mem_mb": 1000.0, "starts": 2}
    report.add(submitted(tmp_path), Ended(True, used=used))
    report.add(submitted(tmp_path, "8"), Ended(False, "no", "NODE_FAIL", "node1"))
    path = tmp_path / "report" / "efficiency_report_run.csv"
    table = report.finish(Accounted(), path, 0.8)
    assert "train" in table
    assert "30 / 60" in table
    assert "3900 / 4000" in table
    assert "95%" in table
    assert "asks for too much" not in table
    first, second = csv.DictReader(path.open())
    assert (first["name"], first["asked_mem_mb"], first["used_minutes"]) == ("train a", "4000", "30.0")
    assert (first["starts"], first["used_gpu_percent"], first["state"]) == ("2", "35", "COMPLETED")
    assert (second["state"], second["nodes"], second["used_minutes"]) == ("NODE_FAIL", "node1", "")


def test_what_asks_for_too_much_is_marked(tmp_path: Path) -> None:
    report = Report()
    report.add(submitted(tmp_path), Ended(True, used={"seconds": 100.0, "cpu_seconds": 10.0, "mem_mb": 50.0}))
    table = report.finish(FakeCluster(), tmp_path / "report.csv", 0.8)
    assert "asks for too much: CPUs, memory" in table
