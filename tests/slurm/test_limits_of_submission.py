"""What administrators limit: jobs wait for room, and what can never run fails at once with SLURM's words."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemons import wait_for
from slurm_cluster import SlurmCluster
from toy_workflow import Toy

pytestmark = pytest.mark.slurm


def quick(name: str, **resources: object) -> dict[str, object]:
    return {"command": f"echo done > results/{name}.json", **resources}


def limit(cluster: SlurmCluster, *limits: str, of: str = "user") -> None:
    who = getpass.getuser() if of == "user" else "normal"
    cluster.ask("sacctmgr", "--immediate", "modify", of, who, "set", *limits)
    time.sleep(1)  # until the controller knows


def test_a_limit_of_submitted_jobs_is_waited_for(
    limited_toy: Callable[..., Toy], limited: SlurmCluster
) -> None:
    """Nothing fails for it, however often it is met, and it is said once."""
    limit(limited, "MaxSubmitJobs=4")
    flow = limited_toy(**{f"r{number:02d}": quick(f"r{number:02d}") for number in range(14)})
    told = flow.run("--submitit-submit-retries", "0")
    assert told.count("AssocMaxSubmitJobLimit") == 1
    assert "No more jobs are taken for now" in told
    assert len(list((flow.folder / "results").iterdir())) == 14
    flow.check_nothing_is_left()


def test_arrays_are_no_larger_than_slurm_allows(limited_toy: Callable[..., Toy]) -> None:
    flow = limited_toy(**{f"r{number:02d}": quick(f"r{number:02d}") for number in range(24)})
    told = flow.run("--submitit-submit-retries", "0")
    assert len(list((flow.folder / "results").iterdir())) == 24
    assert len(set(re.findall(r"SLURM job (\d+)_\d+", told))) == 3  # of ten, ten and four


def test_what_can_never_pass_fails_at_once(limited_toy: Callable[..., Toy], limited: SlurmCluster) -> None:
    limit(limited, "MaxWall=1:00:00", "Flags=DenyOnLimit", of="qos")
    flow = limited_toy(
        fine=quick("fine"),
        long=quick("long", runtime=100, progress=""),
        node=quick("node", slurm_extra="--nodelist=node9"),
        feature=quick("feature", slurm_extra="--constraint=nowhere"),
        reservation=quick("reservation", slurm_extra="--reservation=nobody"),
    )
    began = time.monotonic()
    told = flow.run(status=1)
    assert time.monotonic() - began < 60
    for words in (
        "QOSMaxWallDurationPerJobLimit",
        "Invalid node name specified",
        "Invalid feature specification",
        "Requested reservation is invalid",
    ):
        assert told.count(words) == 1
    assert [file.stem for file in (flow.folder / "results").iterdir()] == ["fine"]


def test_why_jobs_wait(limited_toy: Callable[..., Toy], limited: SlurmCluster) -> None:
    """Each reason once, after a minute, with what to do; what would wait for ever fails."""
    limit(limited, "MaxTRESPerJob=gres/gpu=1", of="qos")
    seat = ["sbatch", "--parsable", "--licenses=seat", "--output=/dev/null", "--wrap", "sleep 300"]
    limited.ask(*seat)
    flow = limited_toy(
        begin=quick("begin", slurm_extra="--begin=now+1hour"),
        held=quick("held", slurm_extra="--hold"),
        seat=quick("seat", slurm_extra="--licenses=seat"),
        gpus=quick("gpus", gpu=2),
        long=quick("long", slurm_partition="short", runtime=30, progress=""),
    )
    process = flow.start()
    wait_for("all reasons", lambda: "PartitionTimeLimit" in flow.said or process.poll() is not None, 150)
    time.sleep(5)
    for reason, advice in (
        ("BeginTime", "not start before"),
        ("JobHeldUser", "scontrol release"),
        ("Licenses", "licenses"),
        ("QOSMaxGRESPerJob", "more than one job may have"),
        ("PartitionTimeLimit", "(5 minutes): --set-resources train:runtime=MINUTES"),
    ):
        (line,) = [line for line in flow.said.splitlines() if f"({reason};" in line]
        assert advice in line
    assert set(re.findall("Error: train (\\w+)", flow.said)) == {"gpus", "long"}
    flow.kill()


def test_a_run_that_shows_its_progress_asks_for_what_its_partition_allows(
    limited_toy: Callable[..., Toy],
) -> None:
    flow = limited_toy(a={"options": "--pause 0.1", "slurm_partition": "short", "runtime": 600})
    told = flow.run()
    assert "allows 5 minutes instead of 600" in told
    assert len(flow.check("a")) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "toy" / ".snakemake" / "submitit"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=False)


def test_a_full_disk(small_disk: Path, toy: Callable[..., Toy], cluster: SlurmCluster) -> None:
    """What is running ends well, what is requeued goes on and says so, and what is to be submitted waits."""
    run = {"options": "--steps 500"}
    flow = toy(a=run, b=run, later=run)
    process = flow.start("--jobs", "2")
    wait_for("two runs", lambda: sum(len(flow.trained(name)) > 6 for name in flow.runs) == 2)
    names = [name for name in flow.runs if flow.trained(name)]
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    cluster.ask("scontrol", "requeue", cluster.one(flow.job(names[0])))
    wait_for("the requeued run", lambda: len(flow.sittings(names[0])) == 2, 60)
    wait_for("its words", lambda: "the job runs all the same" in flow.said, 30)
    flow.hurry()
    wait_for("a warning", lambda: "No space left on device" in flow.said, 60)
    wait_for("both", lambda: all((flow.folder / "results" / f"{name}.json").exists() for name in names))
    time.sleep(5)
    assert process.poll() is None
    ballast.unlink()
    flow.finish(process)
    for name in flow.runs:
        flow.check(name, killed=1 if name == names[0] else 0)
    flow.check_nothing_is_left()


@pytest.mark.thorough
def test_three_hundred_jobs_under_every_limit_at_once(
    limited_toy: Callable[..., Toy], limited: SlurmCluster
) -> None:
    """Of submitted jobs, of arrays, and a partition's below the runtime of some: it ends right without a hand."""
    limit(limited, "MaxSubmitJobs=20")
    runs = {f"r{number:03d}": quick(f"r{number:03d}") for number in range(292)}
    longer = {"options": "--steps 20 --pause 0.1", "slurm_partition": "short", "runtime": 60}
    flow = limited_toy(**runs, **{f"longer{number}": longer for number in range(8)})
    flow.arguments += ["--jobs", "300"]
    told = flow.run("--submitit-submit-retries", "0", seconds=3000)
    assert told.count("AssocMaxSubmitJobLimit") == 1
    assert told.count("allows 5 minutes instead of 60") == 1
    assert len(list((flow.folder / "results").iterdir())) == 300
    for number in range(8):
        assert len(flow.check(f"longer{number}")) == 1
    flow.check_nothing_is_left()
