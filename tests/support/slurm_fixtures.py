"""Fixtures of tests that need a SLURM: booted once, tidied up between tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import wait_for
from slurm_cluster import SlurmCluster, missing_programs
from toy_workflow import Toy


def booted(**options: Any) -> Iterator[SlurmCluster]:
    """Give a cluster for as long as it is needed, or skip with what is missing."""
    if missing := missing_programs(bool(options.get("accounting"))):
        pytest.skip(f"not installed here: {', '.join(missing)}")
    cluster = SlurmCluster(**options)
    yield cluster
    cluster.down()


@pytest.fixture(scope="session")
def plain_cluster() -> Iterator[SlurmCluster]:
    yield from booted()


@pytest.fixture(scope="session")
def accounted_cluster() -> Iterator[SlurmCluster]:
    yield from booted(accounting=True)


@pytest.fixture(scope="session")
def cgroup_cluster() -> Iterator[SlurmCluster]:
    """Where memory is limited by the kernel, as on most clusters."""
    if os.geteuid() or not Path("/sys/fs/cgroup/memory").is_dir():
        pytest.skip("limiting memory by cgroups needs root and cgroups of version 1")
    yield from booted(cgroups=True)


@pytest.fixture
def cluster(plain_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """Four nodes of four GPUs without accounting; empty, whole and idle again after the test."""
    yield plain_cluster
    plain_cluster.tidy()
    wait_for("idle nodes", lambda: set(plain_cluster.node_states().values()) == {"idle"})


@pytest.fixture
def toy(tmp_path: Path, cluster: SlurmCluster) -> Iterator[Callable[..., Toy]]:
    """Make a workflow of toy runs: `toy(a={...}, b={...})`; its Snakemake ends with the test."""
    made: list[Toy] = []

    def make(**runs: dict[str, Any]) -> Toy:
        made.append(Toy(tmp_path / "toy", cluster, runs))
        return made[-1]

    yield make
    for flow in made:
        flow.kill()
