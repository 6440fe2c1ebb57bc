from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from inception_stand_in import StandIn
from PIL import Image

from gdd.cli import cli
from gdd.errors import UserError
from gdd.metrics.sources import open_source
from gdd.networks.checkpoint import one_step_from_denoiser, save_network
from gdd.networks.seeded import seeded_weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    save_network(folder / "g.safetensors", one_step_from_denoiser(world.teachers[False]))
    with seeded_weights(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(StandIn(2, 2, 11).eval()).save(folder / "net.pt")
    call(
        "sample",
        "--generator",
        folder / "g.safetensors",
        "--seed",
        3,
        "--num",
        90,
        "--out",
        folder / "real.npz",
    )
    for name, options in (
        ("inception", ["--judge", folder / "net.pt"]),
        ("inception-clean", ["--judge", folder / "net.pt"]),
        ("pixels", []),
    ):
        call(
            "reference",
            folder / "ref" / f"{name}.npz",
            "--images",
            folder / "real.npz",
            "--name",
            "r",
            *options,
        )
    return folder


def call(*arguments: Any) -> None:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def evaluation(folder: Path, out: Path, *more: Any) -> list[str]:
    return [
        *("evaluate", "--generator", str(folder / "g.safetensors"), "--reference", str(folder / "ref")),
        *(
            "--extractor",
            f"inception={folder / 'net.pt'}",
            "--extractor",
            f"inception-clean={folder / 'net.pt'}",
        ),
        *("--out", str(out), "--config", str(folder), *map(str, more)),
    ]


def test_sample(folder: Path, tmp_path: Path, world: Any) -> None:
    generator = folder / "g.safetensors"
    expected = open_source(generator, seed=2).images(5, 6).numpy()
    options = ["--generator", generator, "--seed", 2, "--start", 5, "--num", 6]
    call("sample", *options, "--out", tmp_path / "a.npz")
    assert np.array_equal(np.load(tmp_path / "a.npz")["images"], expected)
    call("sample", *options, "--out", tmp_path / "folder", "--batch", 4)
    files = sorted((tmp_path / "folder").rglob("*.png"))
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), expected[..., 0])
    call("sample", *options, "--out", tmp_path / "grid.png")
    assert np.asarray(Image.open(tmp_path / "grid.png")).shape == (16, 24)
    teacher = ["--generator", world.teachers[True], "--sampler", '{"steps": 2}', "--num", 3]
    call("sample", *teacher, "--out", tmp_path / "teacher.npz")
    assert np.load(tmp_path / "teacher.npz")["images"].shape == (3, 8, 8, 1)


def test_evaluate(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    call(
        *evaluation(
            folder, out, "--metrics", "fid, kid,clean-fid,pixel_recall", "--samples", 30, "--blocks", 2
        )
    )
    outcome = json.loads(out.read_text())
    assert outcome["mean"].keys() == {"fid", "kid", "clean_fid", "pixel_recall"}
    assert len(outcome["blocks"]) == 2
    assert outcome["samples"] == 30
    # The same images from a file of them.
    call("sample", "--generator", folder / "g.safetensors", "--num", 30, "--out", tmp_path / "few.npz")
    again = evaluation(folder, tmp_path / "again.json", "--metrics", "fid", "--samples", 30)
    again[again.index("--generator") + 1] = str(tmp_path / "few.npz")
    call(*again)
    found = json.loads((tmp_path / "again.json").read_text())
    assert found["blocks"][0]["fid"] == outcome["blocks"][0]["fid"]
    assert found["kind"] == "images"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "lpips"], "no metric 'lpips'"),
        (["--extractor", "inception"], "should be NAME=FILE"),
        (["--judge", "clip"], r"clip\.npz does not exist"),
        (["--dataset", "cifar10"], "of the data set r, the images are of cifar10"),
        (["--sampler", '{"steps": 2}'], "A sampler is for teachers"),
        (["--samples", "8"], "8 images are too few for a Frechet distance"),
    ],
)
def test_misuse_of_evaluate(folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        call(*evaluation(folder, tmp_path / "out.json", *arguments))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_misuse_of_reference(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="either --data"):
        call("reference", tmp_path / "r.npz")
    with pytest.raises(UserError, match="The extractor inception needs its weights"):
        call("reference", tmp_path / "inception.npz", "--images", folder / "real.npz", "--name", "r")
    with pytest.raises(UserError, match="give it a name with --name"):
        call("reference", tmp_path / "r.npz", "--images", folder / "real.npz")
    with pytest.raises(UserError, match="--name belongs to --images"):
        call("reference", tmp_path / "r.npz", "--data", folder, "--name", "r")


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(folder: Path, tmp_path: Path) -> None:
    metrics = "fid,kid,precision,recall,density,coverage,inception_score,clean_fid,pixel_fid,nearest"
    options = ("--metrics", metrics, "--samples", 600, "--blocks", 2)
    call(*evaluation(folder, tmp_path / "one.json", *options))
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "--",
        "gdd",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    two = evaluation(folder, tmp_path / "two.json", *options)
    done = subprocess.run(
        [*run, *two], env=environment, check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("(mean of 2 x 600 images)") == 1
    one, two_found = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two_found["provenance"]["processes"] == 2
    for own, other in zip(one["blocks"], two_found["blocks"], strict=True):
        assert own.keys() == other.keys()
        for key, value in own.items():
            assert other[key] == pytest.approx(value, rel=1e-9), key
    # And of images in a sample. Without the two dashes, torchrun takes --num for one of its own options.
    sample = [
        "sample",
        "--generator",
        str(folder / "g.safetensors"),
        "--num",
        "600",
        "--out",
        str(tmp_path / "s.npz"),
    ]
    done = subprocess.run(
        [*run, *sample], env=environment, check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    expected = open_source(folder / "g.safetensors").images(0, 600).numpy()
    assert np.array_equal(np.load(tmp_path / "s.npz")["images"], expected)
    # Bad input is said once.
    bad = evaluation(folder, tmp_path / "bad.json", "--samples", "8")
    done = subprocess.run(
        [*run, *bad], env=environment, check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    assert done.stderr.count("too few for a Frechet distance") == 1
