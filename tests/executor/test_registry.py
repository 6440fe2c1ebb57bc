"""The journal of submissions survives whatever ends Snakemake."""

from __future__ import annotations

from pathlib import Path

from snakemake_executor_plugin_submitit.registry import Print, Registry

A, B = Print("a", "work a", "request"), Print("b", "work b", "request")


def test_an_array_is_found_again(tmp_path: Path) -> None:
    first = Registry(tmp_path / "jobs")
    first.intend("token", tmp_path, [A, B])
    first.submitted("token", "12")
    for registry in (first, Registry(tmp_path / "jobs"), Registry(tmp_path / "jobs")):
        entry = registry.find("b")
        assert entry is not None
        assert entry.print == B
        assert entry.job_id is not None
        assert entry.full_id(entry.job_id) == "12_1"
        assert registry.ids() == ["12_0", "12_1"]


def test_a_single_job_is_no_array(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "jobs")
    registry.intend("token", tmp_path, [A])
    registry.submitted("token", "12")
    assert registry.ids() == ["12"]


def test_killed_between_sbatch_and_its_answer(tmp_path: Path) -> None:
    Registry(tmp_path / "jobs").intend("token", tmp_path, [A])
    entry = Registry(tmp_path / "jobs").find("a")
    assert entry is not None
    assert (entry.job_id, entry.token) == (None, "token")


def test_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "jobs")
    registry.intend("token", tmp_path, [A])
    with (tmp_path / "jobs").open("a") as file:
        file.write('{"token": "tok')
    again = Registry(tmp_path / "jobs")
    assert again.find("a") is not None
    again.submitted("token", "12")
    assert Registry(tmp_path / "jobs").ids() == ["12"]


def test_what_ended_is_forgotten(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "jobs")
    registry.intend("token", tmp_path, [A, B])
    registry.submitted("token", "12")
    registry.ended(["a"])
    again = Registry(tmp_path / "jobs")
    assert again.find("a") is None
    assert again.ids() == ["12_1"]
    assert (tmp_path / "jobs").read_text().count("\n") == 1  # the journal does not grow for ever


def test_the_newest_submission_counts(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "jobs")
    for token, job_id in (("old", "1"), ("new", "2")):
        registry.intend(token, tmp_path, [A])
        registry.submitted(token, job_id)
    assert registry.ids() == ["2"]
