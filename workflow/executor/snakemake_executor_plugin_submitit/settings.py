"""What can be set on the command line and in a profile (`--submitit-...`)."""

# No `from __future__ import annotations`: Snakemake needs the fields' types, not their names.
# No bool that is true by default either: Snakemake cannot unset it.
from dataclasses import dataclass, field

from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
    pass_group_args=True,
)


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """The settings, each a `--submitit-NAME`."""

    cluster: str = field(
        default="slurm",
        metadata={
            "help": "Where jobs run: 'slurm', 'local' (processes of this machine that outlive Snakemake, "
            "with time limits and restarts as on SLURM) or 'debug' (one after the other inside Snakemake).",
            "choices": ["slurm", "local", "debug"],
        },
    )
    folder: str = field(
        default=".snakemake/submitit",
        metadata={"help": "Folder for logs, pickles and the list of submitted jobs; on a shared disk."},
    )
    array_size: int = field(
        default=100,
        metadata={
            "help": "Ready jobs with equal resources go as one job array of at most so many; 1: no arrays."
        },
    )
    submit_retries: int = field(
        default=6,
        metadata={
            "help": "How often a failed sbatch is repeated, after 2, 4, 8, ... seconds, before its jobs fail."
        },
    )
    stop_seconds: int = field(
        default=120,
        metadata={
            "help": "How long before its time limit a job is asked to save its state and stop: by SIGUSR2 to "
            "those of its processes that handle it, and by a file, named in SUBMITIT_STOP_FILE, that "
            "appears. SLURM may ask up to a minute earlier."
        },
    )
    stop_variables: str = field(
        default="",
        metadata={
            "help": "Further environment variables, with commas, that shall hold the stop file's name."
        },
    )
    stalled_restarts: int = field(
        default=5,
        metadata={
            "help": "A job that was started again so many times in a row without its 'progress' resource (a "
            "file, or a folder of checkpoints) having changed is given up; 0: never."
        },
    )
    no_requeue: bool = field(
        default=False,
        metadata={
            "help": "Never start a job again by itself: a time limit, a preemption or a lost node fails it."
        },
    )
