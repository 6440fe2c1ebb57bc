"""A rule's resources -> what sbatch is asked for.

Names are those of the official SLURM plugin (snakemake-executor-plugin-slurm), so rules run with both.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from snakemake_interface_common.exceptions import WorkflowError

# Resources that are options of sbatch as they are.
TEXTS = {
    "slurm_partition": "partition",
    "slurm_account": "account",
    "slurm_reservation": "reservation",
    "reservation": "reservation",
    "constraint": "constraint",
    "qos": "qos",
    "gres": "gres",
}
# Options of sbatch that the plugin needs for itself.
RESERVED = {"-a", "--array", "-M", "--cluster", "--clusters", "-e", "--error", "-o", "--output", "-W"}
RESERVED |= {"--wait", "--no-requeue", "--open-mode", "--parsable", "--signal", "--test-only", "--wrap"}


class ResourceError(WorkflowError):
    """A rule's resources cannot be asked of SLURM."""


@dataclass(frozen=True)
class Request:
    """What one job asks for. Jobs with equal requests may share a job array."""

    options: Mapping[str, Any]  # of sbatch, with underscores; None: not given
    extra: tuple[str, ...] = ()  # what the rule has for sbatch's command line
    mem_mb: int = 0  # of the whole job
    cpus: int = 1
    gpus: int = 0
    cluster: str = ""

    @property
    def key(self) -> str:
        return repr((sorted(self.options.items()), self.extra, self.cluster))

    @property
    def minutes(self) -> int | None:
        """The time limit; None: the partition's own."""
        minutes: int | None = self.options["time"]
        return minutes

    @property
    def place(self) -> tuple[Any, ...]:
        """What limits of submission depend on."""
        return (self.cluster, *(self.options.get(name) for name in ("partition", "account", "qos")))

    def stop_seconds(self, wished: int) -> int:
        """Return how long before its time limit to ask for a stop; of a short job at most a quarter."""
        return wished if self.minutes is None else min(wished, 15 * self.minutes)

    def but(self, **options: Any) -> Request:
        return replace(self, options={**self.options, **options})


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
    options: dict[str, Any] = {"nodes": _count(given, "nodes", 1), "time": _minutes(given.get("runtime"))}
    options |= {option: str(given[name]) for name, option in TEXTS.items() if name in given}
    gpus = _gpus(given, options)
    # One process is started whatever is asked for: more tasks are room for the rule's own srun.
    names = ("tasks_per_gpu", "tasks_per_node", "tasks") if gpus else ("tasks_per_node", "tasks")
    tasks = next((name for name in names if name in given), "tasks_per_node")
    options[f"n{tasks}"] = _count(given, tasks, 1)
    if "cpus_per_gpu" in given and gpus:
        options["cpus_per_gpu"] = _count(given, "cpus_per_gpu", 1)
        cpus = options["cpus_per_gpu"] * gpus
    elif cpus := _count(given, "cpus_per_task", max(1, threads)):  # 0: whatever the partition gives
        options["cpus_per_task"] = cpus
    mem_mb = 0
    if "mem_mb_per_cpu" in given:
        mem_mb = _count(given, "mem_mb_per_cpu", 0)
        options["mem_per_cpu"] = f"{mem_mb}M"
        mem_mb *= max(1, cpus)
    elif "mem_mb" in given:
        mem_mb = _count(given, "mem_mb", 0)
        options["mem"] = f"{mem_mb}M"
    cluster = cluster_of(given)
    if "," in cluster:
        raise ResourceError(f"one job goes to one cluster, not to {cluster!r}")
    return Request(options, _extra(given), mem_mb, max(1, cpus), gpus, cluster)


def cluster_of(given: Mapping[str, Any]) -> str:
    """Return the cluster that resources name, '' if none."""
    names = ("slurm_cluster", "cluster", "clusters")
    return str(next((given[name] for name in names if given.get(name)), ""))


def _count(given: Mapping[str, Any], name: str, default: int) -> int:
    try:
        value = int(given.get(name, default))
    except (TypeError, ValueError):
        raise ResourceError(f"'{name}' has to be a whole number, not {given[name]!r}") from None
    if value < 0:
        raise ResourceError(f"'{name}' is {value}")
    return value


def _minutes(runtime: Any) -> int | None:
    try:
        return None if runtime is None else max(1, math.ceil(float(runtime)))
    except (TypeError, ValueError):
        raise ResourceError(f"'runtime' has to be a number of minutes, not {runtime!r}") from None


def _gpus(given: Mapping[str, Any], options: dict[str, Any]) -> int:
    """Return how many GPUs the whole job has, which is what `gpu` says, as in the official plugin."""
    gpus = _count(given, "gpu", 0)
    if "gres" in given:
        if "gpu" in given:
            raise ResourceError("give 'gpu' or 'gres', not both")
        kind, *_, last = options["gres"].split(":")
        return int(last) if kind == "gpu" and last.isdigit() else 0
    if "gpu_model" in given and "gpu" not in given:
        raise ResourceError("'gpu_model' needs 'gpu', the number of GPUs")
    if gpus:
        model = f"{given['gpu_model']}:" if "gpu_model" in given else ""
        each, left = divmod(gpus, max(1, options["nodes"]))
        options |= {"gpus": f"{model}{gpus}"} if left else {"gpus_per_node": f"{model}{each}"}
    return gpus


def _extra(given: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        options = tuple(shlex.split(str(given.get("slurm_extra", ""))))
    except ValueError as error:
        raise ResourceError(f"'slurm_extra' is not a list of options: {error}") from None
    for option in options:
        name = option.split("=", 1)[0]
        name = name if name in RESERVED or name.startswith("--") else name[:2]
        if name in RESERVED:
            raise ResourceError(f"'slurm_extra' may not hold {name}, which the plugin sets itself")
    return options


def read_partitions(path: Path) -> dict[str, dict[str, Any]]:
    """Read `partitions: {NAME: {max_runtime: 60, max_mem_mb: 8000, max_gpu: 2, ...}}`.

    Raises:
        ResourceError: the file is no such thing.
    """
    try:
        partitions = {
            str(name): {"max_gpu": 0, **(limits or {})}
            for name, limits in yaml.safe_load(path.read_text())["partitions"].items()
        }
        for limits in partitions.values():
            limits["max_runtime"] = minutes(limits.get("max_runtime", "UNLIMITED"))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResourceError(f"{path} does not describe partitions: {error!r}") from None
    return partitions


def best_partition(
    partitions: Mapping[str, Mapping[str, Any]], resources: Mapping[str, Any], threads: int
) -> str:
    """Return the partition that a job fits into most tightly.

    Raises:
        ResourceError: there is none.
    """
    given = {"threads": threads, "cpus_per_task": threads, **resources}
    scores = ((_fit(limits, given), name) for name, limits in partitions.items())
    fitting = [(score, name) for score, name in scores if score is not None]
    if not fitting:
        asks = {name.removeprefix("max_") for limits in partitions.values() for name in limits}
        words = ", ".join(f"{name}={given[name]}" for name in sorted(asks & given.keys()))
        raise ResourceError(f"no partition of {', '.join(partitions)} has room for it ({words})")
    return max(fitting, key=lambda pair: pair[0])[1]  # of equal ones the first


def _fit(limits: Mapping[str, Any], given: Mapping[str, Any]) -> float | None:
    """Return how much of the limits a job takes, None if more than all of one."""
    if str(limits.get("cluster", "")) != cluster_of(given):
        return None
    for name in ("gpu_model", "constraint"):
        if given.get(name) and given[name] not in limits.get(f"available_{name}s", [given[name]]):
            return None
    total = 0.0 if given.get("gpu") or not limits["max_gpu"] else -1.0  # left to those who need GPUs
    for name, limit in limits.items():
        asked = float(given.get(name.removeprefix("max_")) or 0) if name.startswith("max_") else 0.0
        if asked and asked > float(limit):
            return None
        total += asked / float(limit) if asked else 0.0
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
    if not days and len(parts) < 3:  # MINUTES[:SECONDS]
        parts = [0.0, *parts]
    hours, minute, second = [*parts, 0.0, 0.0][:3]
    return float(days or 0) * 1440 + hours * 60 + minute + second / 60
