"""The batch file and its submission, with an sbatch that only writes down what it is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.command import Command
from snakemake_executor_plugin_submitit.parameters import request
from snakemake_executor_plugin_submitit.sbatch import Sbatch, SubmissionError


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "sbatch"):
        (folder / name).write_text(f'#!/bin/bash\nenv > {tmp_path}/env; echo "$@" > {tmp_path}/arguments\n')
        (folder / name).chmod(0o755)
    with (folder / "sbatch").open("a") as file:
        file.write("echo Submitted batch job 12\n")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return tmp_path


def send(folder: Path, jobs: int, requeue: bool = True, **resources: object) -> str:
    """Submit so many jobs and return the batch file."""
    sbatch = Sbatch(folder / "train", request(resources, 1, "train"), "snakemake run token", 60, requeue)
    assert sbatch.send([Command("true", "train")] * jobs, "token") == "12"
    return (folder / "train" / "12_submission.sh").read_text()


def test_the_command_is_the_batch_script_itself(tools: Path) -> None:
    script = send(tools, 1, runtime=30)
    assert "srun" not in script
    assert script.strip().splitlines()[-1].startswith("exec ")
    assert "#SBATCH --signal=B:USR2@60" in script  # to this process and none of its children
    assert "#SBATCH --time=30" in script
    assert "#SBATCH --requeue" in script
    assert "#SBATCH --open-mode=append" in script
    assert "wckey" not in script
    assert "--array" not in script


def test_an_array_is_not_throttled(tools: Path) -> None:
    assert "#SBATCH --array=0-299%300" in send(tools, 300)


def test_requeueing_can_be_forbidden(tools: Path) -> None:
    assert "#SBATCH --no-requeue" in send(tools, 1, requeue=False)


def test_a_comment_finds_the_job_again_unless_the_user_has_one(tools: Path) -> None:
    send(tools, 1, slurm_extra="--exclude=node1")
    assert "--comment=snakemake run token" in (tools / "arguments").read_text()
    send(tools, 1, slurm_extra="--comment=mine")
    assert "snakemake run" not in (tools / "arguments").read_text()


def test_of_an_enclosing_job_nothing_reaches_sbatch(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SLURM_JOB_ID", "1"), ("SLURM_NTASKS", "4"), ("SBATCH_PARTITION", "short")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    send(tools, 1, slurm_partition="gpu")
    seen = (tools / "env").read_text()
    assert "SLURM_CONF=/etc/slurm.conf" in seen
    assert not any(name in seen for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SBATCH_PARTITION"))


@pytest.mark.parametrize("index", ["", "0", "2"])
def test_a_job_finds_its_pickle_without_its_submitter(tools: Path, index: str) -> None:
    """Also a second time, after a requeue."""
    script = send(tools, 3 if index else 1)
    (setup,) = [line for line in script.splitlines() if line.startswith("job=")]
    environment = {"SLURM_JOB_ID": "14", "PATH": "/usr/bin:/bin"}
    name = "14"
    if index:
        environment |= {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": index}
        name = f"12_{index}"
    for _ in range(2):
        subprocess.run(["bash", "-euc", setup], env=environment, check=True)
        assert (tools / "train" / f"{name}_submitted.pkl").exists()


def test_sbatchs_own_words_are_in_the_error(tools: Path) -> None:
    (tools / "bin" / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: No, thanks' >&2; exit 1\n")
    with pytest.raises(SubmissionError, match="No, thanks"):
        send(tools, 1)
