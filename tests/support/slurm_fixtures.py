"""Fixtures of tests that need a SLURM: booted once, tidied up between tests."""

from __future__ import annotations

import getpass
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


LIMITS = """\
MaxArraySize=10
AccountingStorageEnforce=associations,limits,qos
Licenses=seat:1
PartitionName=short Nodes=ALL MaxTime=5 State=UP
"""


@pytest.fixture(scope="session")
def strict_cluster() -> Iterator[SlurmCluster]:
    """With accounting and limits; arrays of at most ten jobs."""
    yield from booted(accounting=True, extra=LIMITS)


@pytest.fixture
def limited(strict_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """The same, without limits for users again after the test."""
    yield strict_cluster
    strict_cluster.tidy()
    for what in (["user", getpass.getuser()], ["qos", "normal"]):
        limits = ("MaxSubmitJobs=-1", "MaxWall=-1", "MaxTRESPerJob=gres/gpu=-1", "Flags=-1")
        known = limits if what[0] == "qos" else limits[:1]
        strict_cluster.ask("sacctmgr", "--immediate", "modify", *what, "set", *known)


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
    yield from toys(tmp_path, cluster)


@pytest.fixture
def limited_toy(tmp_path: Path, limited: SlurmCluster) -> Iterator[Callable[..., Toy]]:
    """The same on the cluster with limits."""
    yield from toys(tmp_path, limited)


def toys(folder: Path, cluster: SlurmCluster) -> Iterator[Callable[..., Toy]]:
    """Give a maker of workflows, whose Snakemakes end with the test."""
    made: list[Toy] = []

    def make(**runs: dict[str, Any]) -> Toy:
        made.append(Toy(folder / "toy", cluster, runs))
        return made[-1]

    yield make
    for flow in made:
        flow.kill()
