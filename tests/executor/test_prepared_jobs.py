"""What a job is before it is submitted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plugin_doubles import Recorder

from snakemake_executor_plugin_submitit.jobs import Job, Preparation
from snakemake_executor_plugin_submitit.resources import ResourceError
from snakemake_executor_plugin_submitit.settings import ExecutorSettings


def job_of(**resources: Any) -> Any:
    rule = SimpleNamespace(name="train", basedir="/")
    vars(rule).update(dict.fromkeys(("script", "notebook", "wrapper", "cwl", "run_func_src")))
    job = SimpleNamespace(name="train", rule=rule, output=["out"], input=[], params={}, shellcmd="train")
    vars(job).update(wildcards_dict={"run": "cifar10/gdd seed0"}, threads=1, is_group=lambda: False)
    job.resources = resources
    return job


class Bench:
    def __init__(self, folder: Path, **settings: Any) -> None:
        self.log = Recorder()
        self.preparation = Preparation(folder, lambda _: 30, ExecutorSettings(**settings), self.log)

    def __call__(self, **resources: Any) -> Job:
        return self.preparation(job_of(**resources), "python -m snakemake --target-jobs x")


def test_a_label_is_the_rule_with_its_wildcards(tmp_path: Path) -> None:
    one = Bench(tmp_path, name_prefix="mine ")()
    assert one.label == "train cifar10/gdd seed0"
    assert one.command.label == "mine train cifar10/gdd seed0"
    assert one.folder == tmp_path / "train"


def test_what_shows_progress_has_no_wildcards_left(tmp_path: Path) -> None:
    assert Bench(tmp_path)(progress="results/runs/a/state").command.progress == "results/runs/a/state"
    assert Bench(tmp_path)().command.progress == ""
    with pytest.raises(ResourceError, match=r"rule 'train' has progress=.state/{name}., .* function"):
        Bench(tmp_path)(progress="state/{name}")


def test_a_job_that_goes_on_after_its_limit_asks_for_what_its_partition_allows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for _ in range(2):
        assert bench(runtime=100, progress="state").request.options["time"] == 30
    assert bench(runtime=100, progress="state").command.minutes == 30
    (words,) = bench.log.said
    assert "allows 30 minutes instead of 100" in words
    assert bench(runtime=20, progress="state").request.minutes == 20
    assert bench(runtime=100).request.minutes == 100  # it would lose what it did
    assert Bench(tmp_path, no_requeue=True)(runtime=100, progress="state").request.minutes == 100


def test_a_retry_goes_to_other_nodes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, exclude_failed_nodes="node9")
    first = bench()
    assert first.request.options["exclude"] == "node9"
    bench.preparation.failed(first, "node2")
    bench.preparation.failed(first, "node[3-4]")  # nobody knows which
    second = bench()
    assert second.request.options["exclude"] == "node2,node9"
    assert (second.key, second.work, second.asked) == (
        first.key,
        first.work,
        first.asked,
    )  # it is still the same job


def test_a_partition_from_the_file_of_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "limits.yaml").write_text("partitions: {short: {max_runtime: 60}}")
    bench = Bench(tmp_path, partition_config=str(tmp_path / "limits.yaml"))
    assert bench(runtime=10).request.options["partition"] == "short"
    assert bench(runtime=100, slurm_partition="long").request.options["partition"] == "long"
    monkeypatch.setenv("SNAKEMAKE_SLURM_PARTITIONS", str(tmp_path / "limits.yaml"))
    assert Bench(tmp_path)(runtime=10).request.options["partition"] == "short"
