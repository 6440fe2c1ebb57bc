"""Variables that would change what sbatch is asked for."""

from __future__ import annotations

from snakemake_executor_plugin_submitit.environment import unwanted


def test_what_a_rule_asks_for_comes_before_the_environment() -> None:
    environment = {"SBATCH_PARTITION": "short", "SBATCH_ACCOUNT": "lab", "PATH": "/bin"}
    assert unwanted(environment, ["partition", "time"]) == ["SBATCH_PARTITION"]
    assert unwanted(environment, []) == []  # defaults for rules that say nothing


def test_what_the_plugin_sets_is_not_for_the_environment_to_say() -> None:
    assert unwanted({"SBATCH_ARRAY_INX": "1-9", "SBATCH_NO_REQUEUE": "1"}, []) == [
        "SBATCH_ARRAY_INX",
        "SBATCH_NO_REQUEUE",
    ]


def test_of_an_enclosing_job_only_the_way_to_slurm_is_kept() -> None:
    inside = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_CONF": "/etc/slurm.conf"}
    assert unwanted(inside, []) == ["SLURM_JOB_ID", "SLURM_NTASKS"]
    assert unwanted({"SLURM_TIME_FORMAT": "%s"}, []) == []  # outside a job somebody meant it
