"""The batch file and its submission, with an sbatch that only writes down what it is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugin_doubles import prepared

from snakemake_executor_plugin_submitit.clusters import SubmissionError
from snakemake_executor_plugin_submitit.jobs import Batch
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.slurm import Slurm, comment, common, refusal, unwanted

SBATCH = """#!/bin/bash
env > {0}/env; echo "$@" > {0}/arguments; cp "${{@: -1}}" {0}/script
"""
POLICY = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, "
    "user's size and/or time limits)"
)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "sbatch", "sacctmgr"):
        (folder / name).write_text(SBATCH.format(tmp_path))
        (folder / name).chmod(0o755)
    with (folder / "sbatch").open("a") as file:
        file.write("echo Submitted batch job 12\n")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return tmp_path


def send(folder: Path, jobs: int, accounts: str = "", **resources: object) -> str:
    """Submit so many jobs and return the batch file."""
    names = ("stop_seconds", "no_requeue", "name_prefix", "exclude_failed_nodes", "no_account")
    settings = {name: resources.pop(name) for name in names if name in resources}
    cluster = Slurm(ExecutorSettings(**settings))  # type: ignore[arg-type]
    (folder / "bin" / "sacctmgr").write_text(f"#!/bin/bash\nprintf '{accounts}'\n")
    excluded = resources.pop("exclude", None)
    several = [prepared(folder / "train", name, **resources) for name in "abcdefghij"[:jobs]]
    if jobs > 10:
        several = [prepared(folder / "train", str(number), **resources) for number in range(jobs)]
    if excluded:
        several = [one.asking(exclude=excluded) for one in several]
    assert cluster.send(Batch(several, token="token"), "run").startswith("12")
    return (folder / "script").read_text()


def test_the_command_is_the_batch_script_itself(tools: Path) -> None:
    script = send(tools, 1, runtime=30)
    assert "srun" not in script
    assert script.strip().splitlines()[-1].startswith("exec ")
    assert script.strip().endswith("/train token")
    assert (tools / "train" / "token_0.pkl").exists()
    assert "#SBATCH --signal=B:USR2@120" in script  # to this process and none of its children
    assert "#SBATCH --time=30" in script
    assert "#SBATCH --requeue" in script
    assert "#SBATCH --open-mode=append" in script
    assert "wckey" not in script
    assert "--array" not in script


def test_an_array_is_not_throttled(tools: Path) -> None:
    assert "#SBATCH --array=0-299%300" in send(tools, 300)


def test_requeueing_can_be_forbidden(tools: Path) -> None:
    assert "#SBATCH --no-requeue" in send(tools, 1, no_requeue=True)


def test_a_comment_finds_the_job_again_unless_the_user_has_one(tools: Path) -> None:
    send(tools, 1, slurm_extra="--exclude=node1")
    assert "--comment=train a (snakemake run token)" in (tools / "arguments").read_text()
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


def test_sbatchs_own_words_are_in_the_error(tools: Path) -> None:
    (tools / "bin" / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: No, thanks' >&2; exit 1\n")
    with pytest.raises(SubmissionError, match="No, thanks"):
        send(tools, 1)


def test_names_say_which_task_is_which_run(tools: Path) -> None:
    assert "--job-name='mine train a'" in send(tools, 1, name_prefix="mine ")
    assert "--job-name=train" in send(tools, 3)
    assert "--comment=train: a, b, c (snakemake" in (tools / "arguments").read_text()
    labels = [f"train cifar10/gdd seed{number}" for number in range(100)]
    assert common(labels) == "train cifar10/gdd"
    assert len(comment(labels, "run", "token")) < 250
    assert comment(labels, "run", "token").startswith("train cifar10/gdd: seed0, seed1, ")


def test_another_cluster(tools: Path) -> None:
    send(tools, 1, slurm_cluster="north")
    assert "--clusters=north" in (tools / "arguments").read_text()


def refusing(tools: Path, words: str, unless: str) -> None:
    """Let sbatch refuse with `words` whatever does not match `unless`."""
    program = tools / "bin" / "sbatch"
    refusal = f'grep -q -- "{unless}" "${{@: -1}}" || {{ echo "{words}" >&2; exit 1; }}\n'
    program.write_text(SBATCH.format(tools) + refusal + "echo Submitted batch job 12\n")


ACCOUNT = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination"


def test_an_account_is_guessed_where_slurm_asks_for_one(tools: Path) -> None:
    refusing(tools, ACCOUNT, unless="--account=lab")
    assert "--account=lab" in send(tools, 1, accounts="lab")
    with pytest.raises(SubmissionError, match="name one of chair, lab by slurm_account"):
        send(tools, 1, accounts="lab\\nchair")
    with pytest.raises(SubmissionError, match="Invalid account"):
        send(tools, 1, accounts="lab", no_account=True)
    with pytest.raises(SubmissionError, match="Invalid account"):
        send(tools, 1, accounts="lab", slurm_account="wrong")


def test_nodes_are_left_out_as_long_as_others_are_there(tools: Path) -> None:
    assert "--exclude=node1" in send(tools, 1, exclude="node1")
    refusing(tools, "Requested node configuration is not available", unless="--nodes=1$")
    send(tools, 1, exclude="node1,node2")
    program = tools / "bin" / "sbatch"
    program.write_text(program.read_text().replace("grep -q", "! grep -q").replace("--nodes=1$", "--exclude"))
    assert "--exclude" not in send(tools, 1, exclude="node1,node2")


@pytest.mark.parametrize(
    "words",
    [
        "sbatch: error: Batch job submission failed: Invalid partition name specified",
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "sbatch: error: Batch job submission failed: Invalid qos specification",
        "sbatch: error: Batch job submission failed: Invalid generic resource (gres) specification",
        "sbatch: error: Memory specification can not be satisfied",
        "sbatch: unrecognized option '--exclud=node1'",
        "sbatch: error: Batch job submission failed: Invalid node name specified",
        "sbatch: error: Batch job submission failed: Requested reservation is invalid",
        "sbatch: error: Batch job submission failed: Invalid feature specification",
        "sbatch: error: Batch job submission failed: Node count specification invalid",
        "sbatch: error: Batch job submission failed: Invalid license specification",
        "sbatch: error: No cluster 'north' known by database.",
        f"sbatch: error: QOSMaxGRESPerJob {POLICY}",
        f"sbatch: error: QOSMaxWallDurationPerJobLimit {POLICY}",
    ],
)
def test_what_will_never_be_taken(words: str) -> None:
    assert refusal(words).never


@pytest.mark.parametrize(
    "words",
    [
        f"sbatch: error: AssocMaxSubmitJobLimit {POLICY}",
        f"sbatch: error: QOSMaxSubmitJobPerUserLimit {POLICY}",
        POLICY,
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
    ],
)
def test_what_waits_until_others_have_ended(words: str) -> None:
    assert refusal(words).limit
    assert not refusal(words).never


@pytest.mark.parametrize(
    "words",
    [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Invalid job array specification",
    ],
)
def test_what_is_tried_again(words: str) -> None:
    assert not refusal(words).never
    assert not refusal(words).limit
    assert refusal(words).smaller == ("array" in words)


def test_what_a_rule_asks_for_comes_before_the_environment() -> None:
    environment = {"SBATCH_PARTITION": "short", "SBATCH_ACCOUNT": "lab", "PATH": "/bin"}
    assert unwanted(environment, {"partition": "long", "time": 5}) == ["SBATCH_PARTITION"]
    assert unwanted(environment, {}) == []  # defaults for rules that say nothing


def test_what_the_plugin_sets_is_not_for_the_environment_to_say() -> None:
    assert unwanted({"SBATCH_ARRAY_INX": "1-9", "SBATCH_NO_REQUEUE": "1"}, {}) == [
        "SBATCH_ARRAY_INX",
        "SBATCH_NO_REQUEUE",
    ]


def test_of_an_enclosing_job_only_the_way_to_slurm_is_kept() -> None:
    inside = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_CONF": "/etc/slurm.conf"}
    assert unwanted(inside, {}) == ["SLURM_JOB_ID", "SLURM_NTASKS"]
    assert unwanted({"SLURM_TIME_FORMAT": "%s"}, {}) == []  # outside a job somebody meant it
