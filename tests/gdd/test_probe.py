"""`gdd probe`: what it prints and keeps, and that it notices a step that computes something else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_project
import torch
from click.testing import CliRunner

from gdd.adversary.discriminator import ProjectedDiscriminator
from gdd.cli import cli
from gdd.commands.distill import _graphs_pay
from gdd.config.probed import newest_card, probe_file, read_probe
from gdd.errors import UserError
from gdd.experiments import Experiments
from gdd.probe import machine, probe, rates
from gdd.training.world import World

TOPOLOGY = """\
        GPU0    GPU1    GPU2    CPU Affinity    NUMA Affinity
GPU0     X      NV18    SYS     0-31    0
GPU1    NV18     X      SYS     0-31    0
GPU2    SYS     SYS      X      0-31    0
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny project's configuration; none of its files is made."""
    tiny_project.write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "TURN", 0.0)
    return tmp_path


@pytest.mark.slow
def test_a_tiny_setting_on_the_cpu(project: Path) -> None:
    for _ in range(2):  # the second adds to the file of the first
        result = CliRunner().invoke(cli, ["probe", "tiny", "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert "There is no GPU here that torch sees; rates are those of one core of the CPU." in lines
    assert sum("as near as its rounding allows" in line for line in lines) == 2  # float32 and bfloat16
    assert any(line.split()[:3] == ["16", "float32", "contiguous_format"] for line in lines)
    kept = read_probe("cpu")
    assert kept
    assert kept.gb == 0
    of = kept.settings["tiny"]
    assert set(of.training) == {"float32"}
    assert set(of.training["float32"]) == {"8", "16"}  # a group, and the batch
    assert of.at_once(tf32=False) == 16
    assert of.training_rate(12, tf32=False) == of.training["float32"]["8"]
    assert of.training_rate(4, tf32=False) == of.training["float32"]["8"]
    assert of.training_rate(4, tf32=True) is None
    assert {"date", "gdd", "torch", "device"} <= of.provenance.keys()
    assert newest_card() is None  # which is one of GPUs
    assert [path.name for path in Path("results").iterdir()] == ["probe"]


@pytest.mark.slow
def test_what_takes_too_long_on_a_cpu_is_left_out_and_said_to_be(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PUBLISHED", {"random"})
    result = CliRunner().invoke(cli, ["probe", "tiny", "--device", "cpu"], catch_exceptions=False)
    lines = result.output.splitlines()
    assert any("from float64 on the CPU, images: 1;" in line for line in lines)
    assert sum("as near as its rounding allows" in line for line in lines) == 1
    assert lines[-1].startswith("Left out on a CPU, which is slow with random: a second image, bfloat16 and")
    assert "images/s" not in result.output
    assert not Path("results").exists()


@pytest.mark.slow
def test_a_step_that_computes_something_else_is_noticed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = ProjectedDiscriminator.logits
    monkeypatch.setattr(ProjectedDiscriminator, "logits", lambda *args: [2 * x for x in logits(*args)])
    result = CliRunner().invoke(cli, ["probe", "tiny", "--device", "cpu"], catch_exceptions=False)
    assert result.output.count("FURTHER AWAY THAN ROUNDING EXPLAINS") == 2


def test_what_is_printed_of_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        f"--query-gpu={machine.QUERY}": "NVIDIA A10, 23028 MiB, 550.1, 4, 16\nOld, 1 MiB\n",
        "topo": TOPOLOGY,
    }
    monkeypatch.setattr(machine, "_nvidia_smi", lambda first, *_: answers.get(first, ""))
    assert machine.cards() == [
        "GPU 0: NVIDIA A10, 23028 MiB, driver 550.1, PCIe 4 x16",
        "GPU 1: Old, 1 MiB, driver ?, PCIe ? x?",
    ]
    assert machine.interconnect() == "NV18, SYS"
    assert machine.driver() == "unknown"
    assert machine.slug("NVIDIA H100 80GB HBM3 (MIG 1g.10gb)") == "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"


@pytest.mark.parametrize(
    ("fits", "counts"),
    [(128, [64, 128, 256]), (16, [64, 32, 16]), (1000, [64, 128, 256]), (0, [64, 32, 16, 8, 4, 2, 1])],
)
def test_images_at_once_double_until_the_memory_ends(
    papers: Experiments, monkeypatch: pytest.MonkeyPatch, fits: int, counts: list[int]
) -> None:
    tried: list[tuple[int, bool]] = []

    def speed(
        _: Any, world: World, count: int, *, tf32: bool, seconds: float, graphs: bool
    ) -> rates.Speed | None:
        tried.append((count, tf32))
        if count > fits:
            return None
        form = str(world.memory_format).removeprefix("torch.")
        step = 1.0 if graphs and tf32 else 2.0  # the CPU is what waits with these products alone
        return rates.Speed(count, "tf32" if tf32 else "float32", form, graphs, 1.0, step, 3.0, 16, 4.0)

    monkeypatch.setattr(probe, "speed", speed)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *_: None)
    run: Any = type("Run", (), {"recipe": papers.find("cifar10-uncond", "gdd")})
    said: list[str] = []
    found = list(probe._say_speeds(run, torch.device("cuda", 0), float("inf"), 0.0, said.append))
    assert list(dict.fromkeys(count for count, _ in tried)) == counts
    assert {of.images_at_once for of in found} == {count for count in counts if count <= fits}
    assert [line.split()[:2] for line in said if "out of memory" in line] == [
        [str(count), "float32"] for count in counts if count > fits
    ]
    if found:
        assert probe._graphs_pay(found) == ("tf32",)
        assert set(probe._rates(found, ["tf32"])) == {"float32", "tf32"}
        graphed = {of.images_at_once for of in found if of.cuda_graphs}
        fitting = [count for count in counts if count <= fits]
        assert graphed == {fitting[0], fitting[-1]}
        with_graphs, without = (probe._rates(found, products)["tf32"] for products in (["tf32"], []))
        assert all(with_graphs[str(count)] > without[str(count)] for count in graphed)
        at_few = [of._replace(step=9.0) if of.images_at_once == fitting[-1] else of for of in found]
        assert probe._graphs_pay(at_few) == ()  # a run takes as many at once as fit
        assert found[0].memory_format == "channels_last"
    late: list[str] = []
    assert list(probe._say_speeds(run, torch.device("cuda", 0), -1.0, 0.0, late.append)) == found[:1]
    assert not found or late[-1].endswith("not measured: the time is over")


def test_runs_take_graphs_where_they_were_faster(
    papers: Experiments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here: Any = SimpleNamespace(config=papers.config)
    assert not _graphs_pay(here, "cifar10-uncond", tf32=True)  # nothing was probed
    of = {"provenance": {}, "training": {}, "generating": 1.0, "evaluating": 1.0, "speeds": [], "errors": {}}
    measured = {"old": of, "new": of | {"cuda_graphs": ["tf32"]}}
    file = probe_file("card")
    file.parent.mkdir(parents=True)
    for setting, expected in (("old", False), ("new", True)):
        content = {"card": "card", "gb": 80, "settings": {"cifar10-uncond": measured[setting]}}
        file.write_text(json.dumps(content))
        for name in ("cifar10-uncond", "cifar10-quick"):  # which is like it
            assert _graphs_pay(here, name, tf32=True) == expected
            assert not _graphs_pay(here, name, tf32=False)
    assert not _graphs_pay(here, "ffhq", tf32=True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_that_is_not_enough_is_given_back(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    released: list[torch.device] = []
    monkeypatch.setattr(rates, "release", released.append)

    class Full:
        def student(self, *_: Any, **__: Any) -> None:
            raise error

    run: Any = Full()
    before = torch.backends.cudnn.allow_tf32
    assert rates.speed(run, World(), 4, tf32=True, seconds=0) is None
    assert len(released) == 2
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_setting_for_gpus_is_not_probed_without_one(project: Path) -> None:
    tiny = project / "config" / "settings" / "tiny.yaml"
    assert "resources" not in tiny.read_text()
    with pytest.raises(UserError, match=r"The setting 'tiny' is for GPUs, and torch sees none"):
        cli(["probe", "tiny"], standalone_mode=False)


@pytest.mark.parametrize("content", ["[]", "{}", '{"card": "x"}', "{"])
def test_a_damaged_file_is_named(project: Path, content: str) -> None:
    file = probe_file("x")
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(UserError, match=r"results/probe/x\.json.*delete it and"):
        read_probe("x")


def test_the_newest_of_the_cards_with_so_much_memory(project: Path) -> None:
    for card, gb in (("old", 24), ("new", 80), ("cpu", 0)):
        file = probe_file(card)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"card": card, "gb": gb, "settings": {}}))
    assert newest_card() in ("old", "new")
    assert newest_card(24) == "old"
    assert newest_card(40) is None
