"""The workflow on a copy of the configuration, with everything a hundred times smaller."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from served_files import (
    ARCH,
    IMAGES,
    METRICS,
    TEACHER,
    Server,
    one_setting,
    write_cifar,
    write_inception,
    write_statistics,
    write_teacher,
)

from gdd.config.record import read_yaml
from gdd.files import sha256

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Project:
    """A folder with a configuration of its own, worked on by this repository's Snakefile."""

    folder: Path

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of Snakemake."""
        program = Path(sys.executable).with_name("snakemake")
        snakefile = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(self.folder)]
        return [str(program), *snakefile, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which this interpreter's `gdd` is found, with this checkout's package."""
        path = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        packages = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return os.environ | {"PATH": os.pathsep.join(path), "PYTHONPATH": os.pathsep.join(packages)}

    def snakemake(self, *arguments: str, status: int = 0) -> str:
        """Run Snakemake, expect an exit status and return what it printed."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def planned(self, *targets: str) -> set[str]:
        """Return the jobs a dry run names, as `rule: first output`; targets that make nothing are left out."""
        printed = self.snakemake("--dry-run", *targets)
        if "Nothing to be done" in printed:
            return set()
        assert "Job stats:" in printed
        block = r"^(?:local)?rule (\S+):\n(?:    .*\n)*?    output: (\S+?)(?:,|\n)"
        jobs = re.findall(block, printed, flags=re.MULTILINE)
        return {f"{rule}: {output}" for rule, output in jobs}

    def lines(self, *targets: str) -> list[str]:
        """Return the shell lines of a dry run."""
        printed = self.snakemake("--dry-run", "--printshellcmds", *targets)
        return list(dict.fromkeys(re.findall(r"^Shell command: (gdd .+)$", printed, re.MULTILINE)))

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        """Type a line into a shell."""
        return subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def edit(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change a file of the configuration."""
        path = self.folder / "config" / name
        data = read_yaml(path) if path.exists() else {}
        change(data)
        path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))

    def results(self, pattern: str) -> dict[str, bytes]:
        """Return the bytes of the results that match."""
        folder = self.folder / "results"
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern))}


def cut_down(folder: Path) -> Project:
    """Copy the repository's configuration to `folder`, everything made tiny."""
    project = Project(folder)
    for path in sorted((ROOT / "config").rglob("*.yaml")):
        name = path.relative_to(ROOT / "config")
        copy = folder / "config" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        change = CHANGES.get(name.parts[0])
        if change:
            project.edit(str(name), change)
    return project


def _teacher(data: dict[str, Any]) -> None:
    if "training" not in data:  # a published one
        return
    data["architecture"] |= {"model_channels": 16}
    data["training"] |= {"images": 512, "batch": 32, "warmup": 0}


def _feature_network(data: dict[str, Any]) -> None:
    data["steps"] = min(data["steps"], 10)


def _setting(data: dict[str, Any]) -> None:
    if "like" in data:  # another one, which is small
        data["recipe"] |= {"images": 256, "snapshot_every": 128}
        data["evaluation"] |= {"samples": 100}
        return
    data["teacher_sampler"]["steps"] = 2
    data["recipe"] |= {"images": 256, "batch": 32, "snapshot_every": 128}
    data["recipe"] |= {"heads": {"kind": "local", "channels": 8, "projection_channels": 8, "norm_group": 32}}
    data["recipe"] |= {"r1": {"gamma": 1e-4, "every": 4}}
    data["evaluation"] |= {"samples": 100, "blocks": 2}
    if data["evaluation"]["extractor"] == "inception":
        data["evaluation"]["also_at"] = [128]


def _method(data: dict[str, Any]) -> None:
    if data["objective"].get("pairs"):
        # In full size they exceed the million bytes up to which Snakemake compares contents; so here.
        data["objective"]["pairs"] = 2000


def _ablation(data: dict[str, Any]) -> None:
    for row in data.get("rows", {}).values():
        if isinstance(row.get("at"), int):
            row["at"] = 128


CHANGES = {
    "ablations": _ablation,
    "teachers": _teacher,
    "features": _feature_network,
    "settings": _setting,
    "methods": _method,
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return cut_down(tmp_path / "project")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose demo has been made; tests that change it put back what they changed."""
    made = cut_down(tmp_path_factory.mktemp("demo") / "project")
    made.snakemake("--cores", "2", "demo")
    return made


@pytest.fixture
def made(demo: Project, project: Project) -> Project:
    """A copy of the made demo, with the times and records that Snakemake goes by."""
    for name in ("results", ".snakemake", "config"):
        shutil.copytree(demo.folder / name, project.folder / name, dirs_exist_ok=True)
    return project


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    served = Server(tmp_path_factory.mktemp("served"))
    yield served
    served.server.shutdown()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Project:
    """The cut-down project with the paper's first setting alone, and what it fetches."""
    project = cut_down(tmp_path_factory.mktemp("published") / "project")
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    sources = read_yaml(project.folder / "config/sources.yaml")["sources"]
    cifar, teacher, inception, statistics = (
        server.place(sources[name]["url"])
        for name in ("cifar10", TEACHER, "inception", "edm-fid-ref-cifar10-32x32")
    )
    write_cifar(cifar, images)
    write_teacher(teacher)
    write_inception(inception)
    write_statistics(statistics, images, inception)

    def forget_checksums(data: dict[str, Any]) -> None:
        for source in data["sources"].values():
            source.update(bytes=None, checksum=None)
        data["sources"]["inception"]["checksum"] = f"sha256:{sha256(inception)}"  # it is run

    def small_setting(data: dict[str, Any]) -> None:
        data["recipe"] |= {"images": 64, "batch": 16, "snapshot_every": 16, "backbones": ["teacher-encoder"]}
        data["recipe"]["keep"] = "reported"
        data["recipe"]["heads"] = {"kind": "local", "channels": 8, "projection_channels": 8, "norm_group": 16}
        # Not CLIP and DINOv2, of whose kind no network is small.
        data["evaluation"] |= {"also_at": [32], "metrics": METRICS}
        data["monitor"]["fid"] = data["evaluation"]["samples"]

    def small_table(data: dict[str, Any]) -> None:
        one_setting(data)
        for row in data["rows"].values():
            if isinstance(row.get("at"), int):
                row["at"] = 32

    project.edit("sources.yaml", forget_checksums)
    project.edit("local.yaml", lambda data: data.update(mirrors={"https://": server.url}))
    project.edit("datasets/cifar10.yaml", lambda data: data.update(images=IMAGES))
    project.edit(f"teachers/{TEACHER}.yaml", lambda data: data.update(architecture=ARCH))
    project.edit("settings/cifar10-uncond.yaml", small_setting)
    project.edit("ablations/paper.yaml", small_table)
    return project
