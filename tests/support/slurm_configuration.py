"""What slurm.conf says on a test's cluster: everything a real one does, only within seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

TEXT = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits for its old credential to expire: two minutes by default.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1,sched_min_interval=0,defer_batch
# The nodes claim more processors than the machine under them has.
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
MinJobAge=300
KillWait=5
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=30
InactiveLimit=0
PropagateResourceLimits=NONE
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
{processes}
{extra}
NodeName=node[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port={node_ports} CPUs={cpus} \\
  RealMemory={memory_mb} {gres} State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""

# What a job uses is measured and held against its request; over it, the job is killed.
MEASURED = """\
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
"""
CGROUPS = """\
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/none
"""


def slurm_conf(
    *,
    folder: Path,
    user: str,
    host: str,
    port: int,
    node_ports: Sequence[int],
    gpus: int,
    cpus: int,
    memory_mb: int,
    cgroups: bool,
    extra: str,
) -> str:
    """Return the text of slurm.conf for nodes called node1, node2 ... in partitions `gpu` and `urgent`."""
    (folder / "controller").mkdir(exist_ok=True)
    return TEXT.format(
        folder=folder,
        user=user,
        host=host,
        port=port,
        nodes=len(node_ports),
        node_ports=f"{node_ports[0]}-{node_ports[-1]}" if len(node_ports) > 1 else node_ports[0],
        gres=f"Gres=gpu:fake:{gpus}" if gpus else "",
        cpus=cpus,
        memory_mb=memory_mb,
        processes=CGROUPS if cgroups else MEASURED,
        extra=extra
        if "AccountingStorageType" in extra
        else f"AccountingStorageType=accounting_storage/none\n{extra}",
    )
