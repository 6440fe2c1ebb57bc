"""Accounting for a throw-away SLURM: slurmdbd with a MariaDB of its own."""

from __future__ import annotations

import getpass
import subprocess
from pathlib import Path

from daemons import Daemons, executable, wait_for

PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "mariadb", "sacctmgr")

SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""

SLURM = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu
"""


def start_accounting(
    daemons: Daemons, folder: Path, port: int, database_port: int, environment: dict[str, str]
) -> str:
    """Start a database and slurmdbd; return the lines for slurm.conf. Seven seconds."""
    user, data, socket = getpass.getuser(), folder / "database", f"--socket={folder}/database.socket"
    common = ["--no-defaults", f"--datadir={data}", f"--user={user}", "--innodb-log-file-size=16M"]
    installer = executable("mariadb-install-db")
    assert installer
    without_password = ["--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run([installer, *common, *without_password], check=True, capture_output=True)
    daemons.start(
        "mariadbd",
        [
            *("mariadbd", *common, socket, "--bind-address=127.0.0.1", f"--port={database_port}"),
            *(f"--pid-file={folder}/mariadbd.pid", "--innodb-buffer-pool-size=64M", "--skip-log-bin"),
            "--innodb-flush-log-at-trx-commit=0",
        ],
        environment,
    )

    def sql(statement: str) -> bool:
        command = ["mariadb", "--no-defaults", socket, "-uroot", "-e", statement]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    wait_for("the database", lambda: sql("select 1"))
    for host in ("127.0.0.1", "localhost"):
        assert sql(f"create user slurm@'{host}' identified by 'slurm'; grant all on *.* to slurm@'{host}'")

    names = {"folder": folder, "port": port, "database_port": database_port, "user": user}
    configuration = folder / "slurmdbd.conf"
    configuration.write_text(SLURMDBD.format(**names))
    configuration.chmod(0o600)  # slurmdbd insists
    lines = SLURM.format(**names)
    # sacctmgr asks slurm.conf where slurmdbd is, before the cluster it is asked to add can run.
    head = f"ClusterName=test\nSlurmctldHost=localhost\nAuthInfo=socket={folder}/munge/socket\n"
    (folder / "slurm.conf").write_text(head + lines)
    daemons.start("slurmdbd", ["slurmdbd", "-D"], environment)

    def manage(*command: str) -> bool:
        whole = ["sacctmgr", "--immediate", *command]
        return subprocess.run(whole, capture_output=True, env=environment, check=False).returncode == 0

    wait_for("slurmdbd", lambda: manage("show", "cluster"))
    for added in (["cluster", "test"], ["account", "lab"], ["user", user, "Account=lab"]):
        assert manage("add", *added)
    if user == "root":  # who, unlike others, has a second account from the beginning
        assert manage("modify", "user", user, "set", "DefaultAccount=lab")
        assert manage("remove", "user", f"name={user}", "account=root")
    return lines
