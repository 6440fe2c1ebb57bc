"""A real SLURM for tests: several nodes with fake GPUs on loopback, booted in a fraction of a second.

It needs the programs of Debian's slurmctld, slurmd and munge (with accounting, slurmdbd and mariadb-server as
well), no service manager, nothing in /etc and no root: key, sockets, ports and files are its own.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import slurm_accounting
from daemons import Daemons, executable, free_ports, kill_all, processes_of, wait_for
from slurm_configuration import slurm_conf

PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmstepd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")


def missing_programs(accounting: bool = False) -> list[str]:
    """Return what has to be installed before a cluster can boot."""
    wanted = PROGRAMS + (slurm_accounting.PROGRAMS if accounting else ())
    path = os.pathsep.join(
        [os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/slurm-wlm", "/usr/lib64/slurm"]
    )
    return [name for name in wanted if not (executable(name) or shutil.which(name, path=path))]


class SlurmCluster:
    """One controller and some nodes; `down` ends everything and removes the folder."""

    def __init__(
        self,
        nodes: int = 4,
        gpus: int = 4,
        cpus: int = 8,
        memory_mb: int = 16000,
        accounting: bool = False,
        cgroups: bool = False,
        extra: str = "",
    ) -> None:
        # Sockets' paths may have 107 characters, so this is not in pytest's folder.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        self.daemons = Daemons(self.folder)
        self.environment = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}
        for name in [
            name for name in self.environment if name.startswith(("SLURM_JOB", "SBATCH_", "SQUEUE_"))
        ]:
            del self.environment[name]
        controller, database, dbd, *nodes_ports = free_ports(nodes + 3)
        self._start_munge()
        lines = extra
        if accounting:
            lines += slurm_accounting.start_accounting(
                self.daemons, self.folder, dbd, database, self.environment
            )
        (self.folder / "slurm.conf").write_text(
            slurm_conf(
                folder=self.folder,
                user=getpass.getuser(),
                host=socket.gethostname().split(".")[0],
                port=controller,
                node_ports=nodes_ports,
                gpus=gpus,
                cpus=cpus,
                memory_mb=memory_mb,
                cgroups=cgroups,
                extra=lines,
            )
        )
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=autodetect\nConstrainRAMSpace=yes\n")
        files = self._fake_gpus(gpus)
        (self.folder / "gres.conf").write_text(
            f"NodeName=node[1-{nodes}] Name=gpu Type=fake File={files}\n" if gpus else ""
        )
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        wait_for("idle nodes", lambda: set(self.node_states().values()) == {"idle"})

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        folder.mkdir(mode=0o755)
        (folder / "key").write_bytes(secrets.token_bytes(128))
        (folder / "key").chmod(0o400)
        files = [f"--{name}={folder / name.split('-')[0]}" for name in ("socket", "key-file", "seed-file")]
        files += [f"--pid-file={folder}/pid", f"--log-file={folder}/log"]
        self.daemons.start("munged", ["munged", "--foreground", "--force", *files], self.environment)
        wait_for("munge", (folder / "socket").exists, every=0.01)

    def _fake_gpus(self, count: int) -> str:
        """Return device nodes with trailing numbers, without which SLURM sets no CUDA_VISIBLE_DEVICES."""
        numbers = f"[0-{count - 1}]" if count > 1 else "0"
        try:
            for number in range(count):
                os.mknod(self.folder / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except OSError:  # only root may make devices; terminals are always there
            return f"/dev/tty{numbers}"
        return f"{self.folder}/gpu{numbers}"

    def try_to(self, *command: str) -> bool:
        """Run a command of SLURM and return whether it succeeded."""
        return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode == 0

    def ask(self, *command: str) -> str:
        """Run a command of SLURM and return what it printed."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def node_states(self) -> dict[str, str]:
        """Return every node's state, such as idle, mixed, down or drained."""
        lines = self.ask("sinfo", "-h", "-N", "-p", "gpu", "-o", "%N %T").splitlines()
        return dict(line.split() for line in lines)

    def queue(self, what: str = "%i %T") -> list[list[str]]:
        """Return the jobs that are waiting or running, array tasks one by one; default: id and state."""
        return [line.split() for line in self.ask("squeue", "-h", "-r", "-o", what).splitlines()]

    def one(self, job: str) -> str:
        """Return what names this job alone: the number that an array's last task has means all of the array."""
        return dict(self.queue("%A %i")).get(job, job)

    def start_controller(self) -> None:
        """Start slurmctld with the state it left."""
        self.daemons.start("slurmctld", ["slurmctld", "-D"], self.environment)
        wait_for("slurmctld", lambda: self.try_to("scontrol", "ping"))

    def stop_controller(self) -> None:
        """End slurmctld; commands of SLURM fail until it is started again."""
        self.daemons.end("slurmctld")

    def start_node(self, node: str) -> None:
        """Switch a node on."""
        # Its step daemons stay in its working folder, by which they are found: they overwrite their environment.
        folder = self.folder / f"spool.{node}"
        folder.mkdir(exist_ok=True)
        self.daemons.start(node, ["slurmd", "-D", "-N", node], self.environment, folder)

    def resume(self, node: str) -> None:
        """End a node's draining; one that was down and came back needs nothing of the kind, and refuses it."""
        self.try_to("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def lose_node(self, node: str) -> int:
        """Take a node's power: its slurmd and every process of its jobs end at once; return their number."""
        jobs = {"SLURM_CONF": self.environment["SLURM_CONF"], "SLURMD_NODENAME": node}
        doomed = processes_of(self.folder / f"spool.{node}", jobs)
        kill_all(doomed)
        self.daemons.kill(node)
        return len(doomed)

    def tidy(self) -> None:
        """Cancel what is queued and bring back every node and the controller."""
        if "slurmctld" not in self.daemons:
            self.start_controller()
        self.ask("scancel", "--me")
        for node in self.nodes:
            if node not in self.daemons:
                self.start_node(node)
            self.resume(node)
        wait_for("an empty queue", lambda: not self.queue())

    def down(self) -> None:
        """End everything."""
        if "slurmctld" in self.daemons:
            subprocess.run(["scancel", "--me"], env=self.environment, capture_output=True, check=False)
            deadline = time.monotonic() + 10
            while self.queue() and time.monotonic() < deadline:
                time.sleep(0.2)
        for name in (*self.nodes, "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self.daemons.end(name)
        kill_all(processes_of(self.folder, {"SLURM_CONF": self.environment["SLURM_CONF"]}))
        shutil.rmtree(self.folder, ignore_errors=True)
