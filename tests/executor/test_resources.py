"""Resources of rules become what SLURM is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_plugin_submitit.resources import (
    Request,
    ResourceError,
    best_partition,
    minutes,
    read_partitions,
    request,
)


def asked(threads: int = 1, **resources: Any) -> Request:
    return request(resources, threads)


def of(parameter: str, threads: int = 1, **resources: Any) -> Any:
    return asked(threads, **resources).options.get(parameter)


@pytest.mark.parametrize(
    ("resource", "value", "parameter", "expected"),
    [
        ("slurm_partition", "gpu", "partition", "gpu"),
        ("slurm_account", "lab", "account", "lab"),
        ("constraint", "a100|h100", "constraint", "a100|h100"),
        ("qos", "long", "qos", "long"),
        ("runtime", 90, "time", 90),
        ("runtime", 0.2, "time", 1),
        ("runtime", "61.5", "time", 62),
        ("mem_mb", 4000, "mem", "4000M"),
        ("mem_mb", 0, "mem", "0M"),  # the whole node
        ("mem_mb_per_cpu", 500, "mem_per_cpu", "500M"),
        ("nodes", 2, "nodes", 2),
        ("cpus_per_task", 12, "cpus_per_task", 12),
        ("cpus_per_task", 0, "cpus_per_task", None),
        ("tasks_per_node", 4, "ntasks_per_node", 4),
        ("gpu", 2, "gpus_per_node", "2"),
        ("gpu", 0, "gpus_per_node", None),
        ("gres", "gpu:a100:4", "gres", "gpu:a100:4"),
        ("tasks", 3, "ntasks", 3),
        ("slurm_reservation", "course", "reservation", "course"),
    ],
)
def test_resource(resource: str, value: Any, parameter: str, expected: Any) -> None:
    assert of(parameter, **{resource: value}) == expected


@pytest.mark.parametrize("resource", ["slurm_partition", "slurm_account", "constraint", "gpu_model"])
def test_a_line_break_would_end_the_line_of_a_script(resource: str) -> None:
    with pytest.raises(ResourceError, match=f"'{resource}' has a control character: 'a.ntouch pwned'"):
        asked(gpu=1, **{resource: "a\ntouch pwned"})


def test_a_rule_without_a_limit_gets_the_partitions_and_not_submitits_five_minutes() -> None:
    assert of("time") is None
    assert asked().minutes is None


def test_threads_are_processors_unless_the_rule_says_otherwise() -> None:
    assert of("cpus_per_task", threads=6) == 6
    assert of("cpus_per_task", threads=6, cpus_per_task=8) == 8
    assert of("cpus_per_task", threads=6, gpu=1, cpus_per_gpu=4) is None


def test_memory_per_processor_comes_before_memory() -> None:
    both = asked(mem_mb=4000, mem_mb_per_cpu=500)
    assert both.options["mem_per_cpu"] == "500M"
    assert "mem" not in both.options
    assert both.mem_mb == 500


def test_gpus_of_a_model_are_spread_over_the_nodes() -> None:
    assert of("gpus_per_node", gpu=8, gpu_model="a100") == "a100:8"
    assert of("gpus_per_node", gpu=8, gpu_model="a100", nodes=2) == "a100:4"
    assert of("gpus", gpu=3, nodes=2) == "3"
    assert of("ntasks_per_gpu", gpu=2, tasks_per_gpu=1) == 1
    assert of("cpus_per_gpu", gpu=2, cpus_per_gpu=6) == 6


def test_one_task_a_node_unless_asked_for() -> None:
    assert of("ntasks_per_node", nodes=2) == 1
    assert of("ntasks_per_node", nodes=2, tasks=4) is None


def test_extra_options_go_to_sbatch_as_they_are() -> None:
    options = asked(slurm_extra="--exclude=node[3-4] --mail-user 'a b' -x node1").extra
    assert options == ("--exclude=node[3-4]", "--mail-user", "a b", "-x", "node1")


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"slurm_extra": "--array=1-3"}, "--array"),
        ({"slurm_extra": "-o log"}, "-o,"),
        ({"slurm_extra": "-olog"}, "-o,"),
        ({"slurm_extra": "--signal USR1"}, "--signal"),
        ({"slurm_extra": "--exclude='node"}, "slurm_extra"),
        ({"clusters": "a,b"}, "one cluster"),
        ({"gpu": 1, "gres": "gpu:1"}, "not both"),
        ({"gpu_model": "a100"}, "needs 'gpu'"),
        ({"mem_mb": "plenty"}, "mem_mb"),
        ({"runtime": "a while"}, "runtime"),
        ({"nodes": -1}, "nodes"),
    ],
)
def test_what_cannot_be_asked_for(resources: Any, said: str) -> None:
    with pytest.raises(ResourceError, match=said):
        asked(**resources)


def test_jobs_share_an_array_only_if_they_ask_for_the_same() -> None:
    assert asked(gpu=1, mem_mb=5).key == asked(mem_mb=5, gpu=1).key
    others = [asked(gpu=2, mem_mb=5), asked(gpu=1, mem_mb=6), asked(gpu=1, mem_mb=5, slurm_extra="-x a")]
    assert len({asked(gpu=1, mem_mb=5).key, *(one.key for one in others)}) == 4


def test_a_short_job_is_not_asked_to_stop_when_it_has_hardly_begun() -> None:
    assert asked(runtime=600).stop_seconds(180) == 180
    assert asked(runtime=4).stop_seconds(180) == 60
    assert asked().stop_seconds(180) == 180


def test_a_cluster_is_none_of_sbatchs_parameters() -> None:
    for name in ("slurm_cluster", "cluster", "clusters"):
        assert asked(**{name: "north"}).cluster == "north"
    assert asked(clusters="north").key != asked().key


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("00:05:00", 5), ("1-00:00:00", 1440), ("2-12", 3600), ("90", 90), (90, 90), ("1:30", 1.5)],
)
def test_times_as_slurm_writes_them(limit: Any, expected: float) -> None:
    assert minutes(limit) == expected
    assert minutes("UNLIMITED") == float("inf")


PARTITIONS = """
partitions:
  short: {max_runtime: "01:00:00", max_mem_mb: 64000}
  long: {max_runtime: 7-00:00:00, max_mem_mb: 64000}
  gpu: {max_runtime: 2-00:00:00, max_gpu: 4, max_mem_mb: 64000, available_gpu_models: [a100]}
  north: {cluster: n}
"""


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"runtime": 30, "mem_mb": 1000}, "short"),
        ({"runtime": 600, "mem_mb": 1000}, "long"),
        ({"runtime": 30, "gpu": 1}, "gpu"),
        ({"runtime": 30, "gpu": 1, "gpu_model": "a100"}, "gpu"),
        ({"runtime": 30, "cluster": "n"}, "north"),
        ({"runtime": 30, "gpu": 8}, None),
        ({"runtime": 30, "gpu": 1, "gpu_model": "h100"}, None),
        ({"runtime": 30, "mem_mb": 100_000}, None),
    ],
)
def test_a_partition_from_a_file_of_limits(tmp_path: Path, resources: Any, expected: str | None) -> None:
    (tmp_path / "partitions.yaml").write_text(PARTITIONS)
    partitions = read_partitions(tmp_path / "partitions.yaml")
    if expected is None:
        with pytest.raises(ResourceError, match="no partition of short, long, gpu, north has room"):
            best_partition(partitions, resources, 1)
    else:
        assert best_partition(partitions, resources, 1) == expected


def test_a_file_of_limits_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "partitions.yaml").write_text("- short")
    with pytest.raises(ResourceError, match=r"partitions.yaml does not describe partitions"):
        read_partitions(tmp_path / "partitions.yaml")
