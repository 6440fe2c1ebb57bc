"""A rule's resources -> submitit's parameters.

Names are those of the official SLURM plugin (snakemake-executor-plugin-slurm), so rules run with both.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Options of sbatch that the plugin needs for itself.
RESERVED = {
    "-a": "--array",
    "-e": "--error",
    "-o": "--output",
    "-M": "--clusters",
    "--array": "--array",
    "--clusters": "--clusters",
    "--cluster": "--clusters",
    "--error": "--error",
    "--no-requeue": "--no-requeue",
    "--open-mode": "--open-mode",
    "--output": "--output",
    "--parsable": "--parsable",
    "--signal": "--signal",
    "--test-only": "--test-only",
    "--wait": "--wait",
    "-W": "--wait",
    "--wrap": "--wrap",
}


class ResourceError(Exception):
    """A rule's resources cannot be asked of SLURM."""


@dataclass(frozen=True)
class Request:
    """What one job asks for.

    `parameters` are submitit's (names of `submitit.SlurmExecutor`), `options` go to sbatch's command line as
    they are. Jobs with equal requests may share a job array.
    """

    parameters: Mapping[str, Any]
    options: tuple[str, ...] = ()
    minutes: int | None = None  # the time limit
    memory: str = ""  # in words, for messages
    gpus: int = 0
    key: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", repr((sorted(self.parameters.items(), key=str), self.options)))

    def stop_seconds(self, wished: int) -> int:
        """Return how long before its time limit to ask for a stop; of a short job at most a quarter."""
        return wished if self.minutes is None else min(wished, 15 * self.minutes)


def request(resources: Mapping[str, Any], threads: int, name: str) -> Request:
    """Translate `resources` of a job with `threads` threads; `name` is what squeue will show.

    Raises:
        ResourceError: a value makes no sense or contradicts another.
    """
    given = {key: value for key, value in resources.items() if value is not None and value != ""}
    for key, value in given.items():
        # They become lines of a script, which a line break would end.
        if isinstance(value, str) and not value.isprintable():
            raise ResourceError(f"'{key}' has a control character: {value!r}")
    if "clusters" in given:
        raise ResourceError("'clusters' (several SLURM clusters at once) is not supported")
    parameters: dict[str, Any] = {"job_name": name, "nodes": _count(given, "nodes", 1)}
    additional: dict[str, Any] = {}

    minutes = _minutes(given.get("runtime"))
    parameters["time"] = minutes  # None: the partition's own limit, instead of submitit's five minutes
    memory = _memory(given, parameters)
    gpus = _gpus(given, parameters, additional)
    _tasks(given, threads, gpus, parameters, additional)

    for resource, parameter in (
        ("slurm_partition", "partition"),
        ("slurm_account", "account"),
        ("constraint", "constraint"),
        ("qos", "qos"),
    ):
        if resource in given:
            parameters[parameter] = str(given[resource])
    if "reservation" in given or "slurm_reservation" in given:
        additional["reservation"] = str(given.get("slurm_reservation", given.get("reservation")))
    parameters["additional_parameters"] = additional
    return Request(parameters, _extra(given), minutes, memory, gpus)


def _count(given: Mapping[str, Any], name: str, default: int) -> int:
    try:
        value = int(given.get(name, default))
    except (TypeError, ValueError):
        raise ResourceError(f"'{name}' has to be a whole number, not {given[name]!r}") from None
    if value < 0:
        raise ResourceError(f"'{name}' is {value}")
    return value


def _minutes(runtime: Any) -> int | None:
    if runtime is None:
        return None
    try:
        return max(1, math.ceil(float(runtime)))
    except (TypeError, ValueError):
        raise ResourceError(f"'runtime' has to be a number of minutes, not {runtime!r}") from None


def _memory(given: Mapping[str, Any], parameters: dict[str, Any]) -> str:
    if "mem_mb_per_cpu" in given:
        parameters["mem_per_cpu"] = f"{_count(given, 'mem_mb_per_cpu', 0)}M"
        return f"mem_mb_per_cpu={given['mem_mb_per_cpu']}"
    if "mem_mb" in given:
        parameters["mem"] = f"{_count(given, 'mem_mb', 0)}M"
        return f"mem_mb={given['mem_mb']}"
    return ""


def _gpus(given: Mapping[str, Any], parameters: dict[str, Any], additional: dict[str, Any]) -> int:
    """`gpu` counts the GPUs of the whole job, as in the official plugin."""
    if "gres" in given:
        if "gpu" in given:
            raise ResourceError("give 'gpu' or 'gres', not both")
        parameters["gres"] = str(given["gres"])
        last = parameters["gres"].rsplit(":", 1)[-1]
        return int(last) if parameters["gres"].startswith("gpu") and last.isdigit() else 0
    gpus = _count(given, "gpu", 0)
    if not gpus:
        if "gpu_model" in given and "gpu" not in given:
            raise ResourceError("'gpu_model' needs 'gpu', the number of GPUs")
        return 0
    model = f"{given['gpu_model']}:" if "gpu_model" in given else ""
    nodes = parameters["nodes"] or 1
    if gpus % nodes:
        additional["gpus"] = f"{model}{gpus}"
    else:
        parameters["gpus_per_node"] = f"{model}{gpus // nodes}"
    return gpus


def _tasks(
    given: Mapping[str, Any],
    threads: int,
    gpus: int,
    parameters: dict[str, Any],
    additional: dict[str, Any],
) -> None:
    """One process is started whatever is asked for here: more tasks are room for the rule's own srun."""
    if "tasks_per_gpu" in given and gpus:
        additional["ntasks-per-gpu"] = _count(given, "tasks_per_gpu", 1)
    elif "tasks_per_node" in given:
        parameters["ntasks_per_node"] = _count(given, "tasks_per_node", 1)
    elif "tasks" in given:
        additional["ntasks"] = _count(given, "tasks", 1)
    else:
        parameters["ntasks_per_node"] = 1
    if "cpus_per_gpu" in given and gpus:
        additional["cpus-per-gpu"] = _count(given, "cpus_per_gpu", 1)
        return
    cpus = _count(given, "cpus_per_task", max(1, threads))
    if cpus:  # 0: whatever the partition gives
        parameters["cpus_per_task"] = cpus


def _extra(given: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        options = tuple(shlex.split(str(given.get("slurm_extra", ""))))
    except ValueError as error:
        raise ResourceError(f"'slurm_extra' is not a list of options: {error}") from None
    for option in options:
        name = option.split("=", 1)[0]
        if name not in RESERVED and len(name) > 2 and name[0] == "-" and name[1] != "-":
            name = name[:2]
        if name in RESERVED:
            raise ResourceError(f"'slurm_extra' may not hold {RESERVED[name]}, which the plugin sets itself")
    return options
