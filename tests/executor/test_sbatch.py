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


FAILED = "sbatch: error: Batch job submission failed:"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("never", f"{FAILED} Invalid partition name specified"),
        ("never", f"{FAILED} Invalid account or account/partition combination specified"),
        ("never", f"{FAILED} Requested node configuration is not available"),
        ("never", f"{FAILED} Invalid qos specification"),
        ("never", f"{FAILED} Invalid generic resource (gres) specification"),
        ("never", "sbatch: error: Memory specification can not be satisfied"),
        ("never", "sbatch: unrecognized option '--exclud=node1'"),
        ("never", f"{FAILED} Invalid node name specified"),
        ("never", f"{FAILED} Requested reservation is invalid"),
        ("never", f"{FAILED} Invalid feature specification"),
        ("never", f"{FAILED} Node count specification invalid"),
        ("never", f"{FAILED} Invalid license specification"),
        ("never", "sbatch: error: No cluster 'north' known by database."),
        ("never", f"sbatch: error: QOSMaxGRESPerJob {POLICY}"),
        ("never", f"sbatch: error: QOSMaxWallDurationPerJobLimit {POLICY}"),
        ("limit", f"sbatch: error: AssocMaxSubmitJobLimit {POLICY}"),
        ("limit", f"sbatch: error: QOSMaxSubmitJobPerUserLimit {POLICY}"),
        ("limit", POLICY),
        ("limit", "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"),
        ("smaller", f"{FAILED} Invalid job array specification"),
        ("", f"{FAILED} Unable to contact slurm controller (connect failure)"),
        ("", f"{FAILED} Socket timed out on send/recv operation"),
    ],
)
def test_what_a_refusal_means(kind: str, words: str) -> None:
    """It will never pass, waits until others have ended, may pass in part, or is tried again."""
    error = refusal(words)
    assert [name for name in ("never", "limit", "smaller") if getattr(error, name)] == [kind][: bool(kind)]


def test_variables_that_sbatch_shall_not_see() -> None:
    defaults = {"SBATCH_PARTITION": "short", "SBATCH_ACCOUNT": "lab", "PATH": "/bin"}
    assert unwanted(defaults, {"partition": "long", "time": 5}) == ["SBATCH_PARTITION"]
    assert unwanted(defaults, {}) == []  # of use to rules that say nothing
    own = {"SBATCH_ARRAY_INX": "1-9", "SBATCH_NO_REQUEUE": "1"}  # the plugin's to say
    assert unwanted(own, {}) == list(own)
    inside = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_CONF": "/etc/slurm.conf"}
    assert unwanted(inside, {}) == ["SLURM_JOB_ID", "SLURM_NTASKS"]  # those of another job
    assert unwanted({"SLURM_TIME_FORMAT": "%s"}, {}) == []  # outside a job somebody meant it
