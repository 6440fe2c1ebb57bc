"""What can be set on the command line and in a profile (`--submitit-...`)."""

# No `from __future__ import annotations`: Snakemake needs the fields' types, not their names.
# No bool that is true by default either: Snakemake cannot unset it.
from dataclasses import dataclass, field
from typing import Any

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


def _setting(default: Any, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """The settings, each a `--submitit-NAME`; named as in the official SLURM plugin where that has one."""

    cluster: str = _setting(
        "slurm",
        "Where jobs run: 'slurm', 'local' (processes of this machine that outlive Snakemake, with time "
        "limits and restarts as on SLURM) or 'debug' (one after the other inside Snakemake).",
        choices=["slurm", "local", "debug"],
    )
    folder: str = _setting(
        ".snakemake/submitit",
        "Folder for logs, pickles and the list of submitted jobs; on a disk that the nodes see.",
    )
    name_prefix: str = _setting("", "Put before the names that jobs have in SLURM.")
    array_size: int = _setting(
        100, "Equal jobs go as one array of at most so many (or SLURM's MaxArraySize); 1: no arrays."
    )
    submit_retries: int = _setting(
        6, "How often a failed sbatch is repeated, after 2, 4, 8, ... seconds, before its jobs fail."
    )
    init_seconds_before_status_checks: int = _setting(0, "Seconds before the queue is first looked at.")
    stop_seconds: int = _setting(
        120,
        "How long before its time limit a job is asked to save its state and stop: by SIGUSR2 to those of "
        "its processes that handle it, and by a file, named in SUBMITIT_STOP_FILE, that appears. SLURM may "
        "ask up to a minute earlier.",
    )
    stop_variables: str = _setting(
        "", "Further environment variables, with commas, that shall hold the stop file's name."
    )
    stalled_restarts: int = _setting(
        5,
        "A job that was started again so many times in a row without its 'progress' resource (a file, or a "
        "folder of checkpoints) having changed is given up; 0: never.",
    )
    no_requeue: bool = _setting(
        False, "Never start a job again by itself: a time limit, a preemption or a lost node fails it."
    )
    exclude_failed_nodes: str = _setting(
        "",
        "Nodes, with commas, where no job shall run. A job that is tried again (--retries) does not go to "
        "a node where it failed in any case.",
    )
    partition_config: str = _setting(
        "",
        "YAML file with the limits of partitions (as the official plugin has it), from which a job that "
        "names none gets its partition. Else the environment variable SNAKEMAKE_SLURM_PARTITIONS.",
    )
    no_account: bool = _setting(
        False, "Never guess an account where SLURM asks for one and a rule names none."
    )
    keep_successful_logs: bool = _setting(False, "Keep SLURM's logs of jobs that succeeded.")
    delete_logfiles_older_than: int = _setting(
        10, "Days after which SLURM's logs of failed jobs are deleted; 0: never."
    )
    efficiency_report: bool = _setting(
        False, "At the end, show what jobs asked for and used (time, memory, CPU); also as a CSV file."
    )
    efficiency_report_path: str = _setting(
        "", "Folder for that file, efficiency_report_RUN.csv; else the plugin's own."
    )
    efficiency_threshold: float = _setting(
        0.8, "Rules that use less than this part of their CPUs' time or of their memory are marked there."
    )
