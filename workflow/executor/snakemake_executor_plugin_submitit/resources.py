"""A rule's resources -> what sbatch is asked for.

Names are those of the official SLURM plugin (snakemake-executor-plugin-slurm), so rules run with both.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from snakemake_interface_common.exceptions import WorkflowError

# Options of sbatch that the plugin needs for itself.
RESERVED = {
    **{
        name: name for name in ("--array", "--clusters", "--error", "--no-requeue", "--open-mode", "--output")
    },
    **{name: name for name in ("--parsable", "--signal", "--test-only", "--wait", "--wrap")},
    **{"-a": "--array", "-e": "--error", "-o": "--output", "-M": "--clusters", "-W": "--wait"},
    "--cluster": "--clusters",
}


class ResourceError(WorkflowError):
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
    mem_mb: int = 0  # of the whole job
    cpus: int = 1
    gpus: int = 0
    cluster: str = ""
    key: str = field(init=False, default="")

    def __post_init__(self) -> None:
        parts = (sorted(self.parameters.items(), key=str), self.options, self.cluster)
        object.__setattr__(self, "key", repr(parts))

    def stop_seconds(self, wished: int) -> int:
        """Return how long before its time limit to ask for a stop; of a short job at most a quarter."""
        return wished if self.minutes is None else min(wished, 15 * self.minutes)

    def but(self, **parameters: Any) -> Request:
        """Return the same request with some parameters changed."""
        minutes = parameters.get("time", self.minutes)
        return replace(self, parameters={**self.parameters, **parameters}, minutes=minutes)

    @property
    def place(self) -> tuple[Any, ...]:
        """What limits of submission depend on."""
        return (self.cluster, *(self.parameters.get(name) for name in ("partition", "account", "qos")))


def request(resources: Mapping[str, Any], threads: int) -> Request:
    """Translate `resources` of a job with `threads` threads.

    Raises:
        ResourceError: a value makes no sense or contradicts another.
    """
    given = {key: value for key, value in resources.items() if value is not None and value != ""}
    for key, value in given.items():
        # They become lines of a script, which a line break would end.
        if isinstance(value, str) and not value.isprintable():
            raise ResourceError(f"'{key}' has a control character: {value!r}")
    parameters: dict[str, Any] = {"nodes": _count(given, "nodes", 1)}
    additional: dict[str, Any] = {}
    minutes = _minutes(given.get("runtime"))
    parameters["time"] = minutes  # None: the partition's own limit, instead of submitit's five minutes
    gpus = _gpus(given, parameters, additional)
    _tasks(given, threads, gpus, parameters, additional)
    cpus = int(parameters.get("cpus_per_task") or _count(given, "cpus_per_gpu", 1) * max(1, gpus))
    memory, mem_mb = "", 0
    if "mem_mb_per_cpu" in given:
        each = _count(given, "mem_mb_per_cpu", 0)
        parameters["mem_per_cpu"], memory, mem_mb = f"{each}M", f"mem_mb_per_cpu={each}", each * cpus
    elif "mem_mb" in given:
        mem_mb = _count(given, "mem_mb", 0)
        parameters["mem"], memory = f"{mem_mb}M", f"mem_mb={mem_mb}"
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
    cluster = str(
        next((given[name] for name in ("slurm_cluster", "cluster", "clusters") if name in given), "")
    )
    if "," in cluster:
        raise ResourceError(f"one job goes to one cluster, not to {cluster!r}")
    return Request(parameters, _extra(given), minutes, memory, mem_mb, cpus, gpus, cluster)


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
    given: Mapping[str, Any], threads: int, gpus: int, parameters: dict[str, Any], additional: dict[str, Any]
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


class Partitions:
    """The limits of partitions, from a file as the official plugin reads it."""

    def __init__(self, path: Path) -> None:
        """Read `partitions: {NAME: {max_runtime: 60, max_mem_mb: 8000, max_gpu: 2, ...}}`.

        Raises:
            ResourceError: the file is no such thing.
        """
        try:
            limits = yaml.safe_load(path.read_text())["partitions"]
            self._limits = {str(name): dict(one or {}) for name, one in limits.items()}
            for one in self._limits.values():
                if "max_runtime" in one:
                    one["max_runtime"] = minutes(one["max_runtime"])
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ResourceError(f"{path} does not describe partitions: {error!r}") from None

    def best(self, resources: Mapping[str, Any], threads: int) -> str:
        """Return the partition that a job fits into most tightly.

        Raises:
            ResourceError: there is none.
        """
        scores = {name: self._fit(one, resources, threads) for name, one in self._limits.items()}
        fitting = {name: score for name, score in scores.items() if score is not None}
        if not fitting:
            raise ResourceError(f"no partition of {', '.join(self._limits)} has room for it")
        return max(fitting, key=lambda name: fitting[name])

    @staticmethod
    def _fit(limits: Mapping[str, Any], resources: Mapping[str, Any], threads: int) -> float | None:
        """Return how much of the limits a job takes, None if more than all of one."""
        given = {name: value for name, value in resources.items() if value not in (None, "")}
        given.setdefault("threads", threads)
        given.setdefault("cpus_per_task", threads)
        cluster = next(
            (given[name] for name in ("slurm_cluster", "cluster", "clusters") if name in given), None
        )
        if limits.get("cluster") != cluster:
            return None
        for resource, known in (
            ("gpu_model", "available_gpu_models"),
            ("constraint", "available_constraints"),
        ):
            if resource in given and given[resource] not in limits.get(known, [given[resource]]):
                return None
        total = 0.0 if "gpu" in given or not limits.get("max_gpu") else -1.0  # left to those who need it
        for name, value in given.items():
            limit = limits.get(f"max_{name}", 0 if name == "gpu" else math.inf)
            if not str(value).replace(".", "", 1).isdigit() or not float(value):
                continue
            if float(value) > float(limit):
                return None
            total += float(value) / float(limit)
        return total


def minutes(limit: Any) -> float:
    """Read SLURM's `[DAYS-]HOURS:MINUTES:SECONDS`, `UNLIMITED`, or a number of minutes.

    Raises:
        ValueError: it is none of these.
    """
    text = str(limit)
    if text in ("UNLIMITED", "INFINITE"):
        return math.inf
    days, _, rest = text.rpartition("-")
    parts = [float(part) for part in rest.split(":")]
    if days:  # DAYS-HOURS[:MINUTES[:SECONDS]]
        hours, minute, second = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minute, second = parts
    else:  # MINUTES[:SECONDS]
        hours, (minute, second) = 0.0, [*parts, 0][:2]
    return float(days or 0) * 1440 + hours * 60 + minute + second / 60
