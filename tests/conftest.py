"""Fixtures every test may use."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml
from xdist.scheduler import LoadScopeScheduling

from gdd.config.config import load_config
from gdd.config.record import read_yaml
from gdd.experiments import Experiments

pytest_plugins = ["slurm_fixtures"]

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT.parent / "shared" / "golden"


@pytest.fixture
def golden() -> Path:
    """The folder of numbers computed with the published reference implementations."""
    if not GOLDEN.is_dir():
        pytest.skip("the reference numbers (golden data) are not part of this checkout")
    return GOLDEN


@pytest.fixture(autouse=True)
def _single_thread() -> None:
    """Small tensors are slower on several threads, and bits depend on how a sum is split."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _environment_is_put_back() -> Iterator[None]:
    """A claim of GPUs writes into the environment, where the next test would take it for its own."""
    with patch.dict(os.environ):
        yield


DEMO = tuple(f"workflow/test_{name}.py" for name in ("demo", "by_name", "killed", "workstation"))
SPECIAL = {"workflow", "slurm", "browser", "gpu", "network", "slow", "thorough"}
LATER = pytest.mark.skip(reason="takes minutes; GDD_ALL=1 runs it")


def pytest_configure() -> None:
    """A shell that starts pytest in the background has it ignore Ctrl-C, and with it whatever it starts."""
    gc.disable()  # until all modules are loaded, in which no garbage is to be found
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `unit` what bears no other marker; what takes long begins first."""
    for item in items:
        if item.get_closest_marker("thorough") and not os.environ.get("GDD_ALL"):
            item.add_marker(LATER)
        if not SPECIAL.intersection(marker.name for marker in item.iter_markers()):
            item.add_marker(pytest.mark.unit)
    items.sort(key=lambda item: "workflow" not in item.keywords and item.path.name != "test_kill.py")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


class ByFile(LoadScopeScheduling):
    """Tests of a file share their fixtures in one process; one SLURM and one demo serve several files."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if "slurm/" in file or file.endswith("_on_slurm.py"):
            return "SLURM"
        return "the demo" if file.endswith(DEMO) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@dataclass(frozen=True)
class ConfigFolder:
    """A configuration to take apart: the project's own records of the digits, and one table."""

    path: Path

    def change(self, file: str, keys: tuple[Any, ...], value: Any) -> None:
        """Set what stands at `keys` of a YAML file; an ellipsis removes the last key."""
        data = inner = read_yaml(self.path / file)
        for key in keys[:-1]:
            inner = inner[key]
        if value is ...:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = value
        self.write(file, yaml.safe_dump(data, sort_keys=False))

    def write(self, file: str, text: str) -> None:
        """Write a file, its folder included."""
        (self.path / file).parent.mkdir(parents=True, exist_ok=True)
        (self.path / file).write_text(text)

    def load(self, *extra: Path) -> Experiments:
        """Read and check everything, every table included."""
        experiments = Experiments(load_config(self.path, extra))
        assert experiments.tables
        return experiments


@pytest.fixture(scope="session")
def papers() -> Experiments:
    """The repository's own configuration."""
    return Experiments(load_config(ROOT / "config"))


@pytest.fixture
def config_folder(tmp_path: Path, pristine_config: ConfigFolder) -> ConfigFolder:
    """A configuration of three methods, one setting and one table, to be changed at will."""
    return ConfigFolder(shutil.copytree(pristine_config.path, tmp_path / "config"))


@pytest.fixture(scope="session")
def pristine_config(tmp_path_factory: pytest.TempPathFactory) -> ConfigFolder:
    """What `config_folder` is a copy of."""
    copy = ConfigFolder(tmp_path_factory.mktemp("pristine") / "config")
    files = ["datasets/digits", "teachers/digits", "settings/digits"]
    files += [f"features/digits-{name}" for name in ("classifier", "random", "judge")]
    files += [f"methods/{name}" for name in ("gdd", "gdd-i", "direct")]
    for file in files:
        target = copy.path / f"{file}.yaml"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "config" / f"{file}.yaml", target)
    copy.change("settings/digits.yaml", ("methods",), {"gdd-i": {"lr": {"generator": 1e-3}}})
    copy.write("config.yaml", "seeds: [0]\ntargets: {all: {title: All, page: index, tables: [small]}}\n")
    copy.write(
        "ablations/small.yaml",
        "title: Small\n"
        "setting: digits\n"
        "rows:\n"
        "  GDD: {method: gdd}\n"
        "  GDD-I: {method: gdd-i, lr: {discriminator: 3e-4}}\n"
        "  Teacher: {teacher_steps: 18}\n"
        "columns: [fid, seconds]\n",
    )
    return copy
