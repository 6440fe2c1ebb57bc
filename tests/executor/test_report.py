"""What jobs asked for and used."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

from plugin_doubles import FakeCluster, submitted

from snakemake_executor_plugin_submitit.report import Report, duration, error_message, remove_old, tidy
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
    assert report.failed() == "1 of 1 jobs failed: train a"  # for the last try counts
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
    used = {"seconds": 100.0, "cpu_seconds": 10.0, "mem_mb": 50.0}
    report.add(submitted(tmp_path, cpus_per_task=4), Ended(True, used=used))
    table = report.finish(FakeCluster(), tmp_path / "report.csv", 0.8)
    assert "asks for too much: CPUs, memory" in table


def test_what_asks_for_little_or_is_brief_is_not_marked(tmp_path: Path) -> None:
    for seconds, asked in ((100.0, {"mem_mb": 200}), (20.0, {"cpus_per_task": 4})):
        report = Report()
        used = {"seconds": seconds, "cpu_seconds": 10.0, "mem_mb": 50.0}
        report.add(submitted(tmp_path, **asked), Ended(True, used=used))
        assert "asks for too much" not in report.finish(FakeCluster(), tmp_path / "report.csv", 0.8)


def test_a_failure_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    silent, rule = tmp_path / "silent.log", tmp_path / "rule.log"
    silent.touch()
    rule.write_text("".join(f"line {number}\n" for number in range(100)))
    message = error_message("train a: it failed", [silent, rule, tmp_path / "slurm.log"]).splitlines()
    assert message[0].endswith("Error: train a: it failed.")
    assert message[-2].strip() == "| line 99"
    assert f"  log: {silent}" in message
    assert len(message) < 20


def test_of_a_nodes_log_the_commands_own_words_are_told(tmp_path: Path) -> None:
    log = tmp_path / "7_0_log.out"
    before = "Building DAG of jobs...\nlocalrule a:\n    output: a\n    resources: tmpdir=/tmp, mem_mb=100\n"
    after = "[Sat Nov 28 04:45:00 2026]\nError in rule a:\n    message: None\nShutting down, this might\n"
    status = "RuleException:\nCalledProcessError in file Snakefile, line 7:\nCommand 'x' returned ...\n"

    def told(text: str) -> list[str]:
        log.write_text(text)
        return [line.strip(" |") for line in error_message("it failed", [log]).splitlines()[2:]]

    assert told(before + "words\nmore\n" + status + after) == ["words", "more"]
    own = "RuleException:\nValueError in file Snakefile, line 11:\nit broke"
    assert told(f"{before}{own}\n{after}") == own.splitlines()  # of a rule with `run`
    assert told(before + status + after) == []
    assert told(before + "killed\n")[-1] == "killed"


def test_of_jobs_that_succeeded_nothing_is_left_and_of_others_not_for_ever(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    names = [f"{job}_{end}" for job in (7, 8, 9) for end in ("0_log.out", "0_result.pkl", "restarts.json")]
    for name in [*names, "token_0.pkl"]:
        (folder / name).touch()
    tidy(submitted(folder, "7"), keep_log=False)
    for file in folder.glob("[8t]*"):
        os.utime(file, (time.time() - 11 * 86400,) * 2)
    remove_old(tmp_path, 0)
    assert (folder / "8_0_log.out").exists()
    remove_old(tmp_path, 10)
    left = {file.name for file in folder.iterdir()}
    assert left == {"9_0_log.out", "9_0_result.pkl", "9_restarts.json", "token_0.pkl"}  # which may wait
    tidy(submitted(folder, "9"), keep_log=True)
    assert (folder / "9_0_log.out").exists()


def test_durations() -> None:
    assert [duration(seconds) for seconds in (3, 100, 600, 7260)] == ["3 s", "100 s", "10 min", "2 h 1 min"]
