"""Variables that would change what sbatch is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# sbatch prefers these to what the script says.
_INPUT = {
    "partition": "SBATCH_PARTITION",
    "account": "SBATCH_ACCOUNT",
    "qos": "SBATCH_QOS",
    "constraint": "SBATCH_CONSTRAINT",
    "time": "SBATCH_TIMELIMIT",
    "reservation": "SBATCH_RESERVATION",
    "gres": "SBATCH_GRES",
    "gpus": "SBATCH_GPUS",
    "gpus_per_node": "SBATCH_GPUS_PER_NODE",
    "mem": "SBATCH_MEM_PER_NODE",
    "mem_per_cpu": "SBATCH_MEM_PER_CPU",
}
# The plugin sets what these are about, always.
_ALWAYS = (
    "SBATCH_ARRAY_INX",
    "SBATCH_JOB_NAME",
    "SBATCH_NO_REQUEUE",
    "SBATCH_OPEN_MODE",
    "SBATCH_REQUEUE",
    "SBATCH_SIGNAL",
    "SBATCH_WAIT",
    "SBATCH_TEST_ONLY",
)
# How to reach SLURM at all, which an enclosing job passes on too.
_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER"}


def unwanted(environment: Mapping[str, str], parameters: Iterable[str]) -> list[str]:
    """Return the variables that have to go before sbatch is called with `parameters`.

    What a rule asks for counts more than SBATCH_PARTITION and its kin, which stay as defaults for the others.
    Inside a job (Snakemake itself may run in one) that job's SLURM_... variables describe the wrong job.
    """
    names = [name for name in _ALWAYS if name in environment]
    names += [_INPUT[key] for key in parameters if _INPUT.get(key, "") in environment]
    if "SLURM_JOB_ID" in environment:
        names += [name for name in environment if name.startswith("SLURM_") and name not in _KEPT]
    return sorted(set(names))
