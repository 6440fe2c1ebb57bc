"""`gdd evaluate`, `gdd sample` and `gdd reference` in a tiny project, from weights to numbers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from click.testing import CliRunner, Result
from inception_stand_in import StandIn, save_script
from PIL import Image
from tiny_project import BATCH, RUN, make_project

from gdd.cli import cli
from gdd.errors import UserError
from gdd.files import sha256
from gdd.metrics.sources import open_source

pytestmark = pytest.mark.slow

Call = Callable[..., Result]
RUN_ARGUMENTS = ["tiny", "gdd", "--seed", "3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run of four steps and its references."""
    folder = tmp_path_factory.mktemp("project") / "p"
    make_project(folder, images=4 * BATCH, snapshot_every=2 * BATCH)
    source = "{use: x, url: 'https://x.org/i', path: metrics/i.pt, bytes: null, checksum: null, licence: ''}"
    (folder / "config/sources.yaml").write_text(f"sources: {{inception: {source}}}\n")
    with contextlib.chdir(folder), patch.dict(os.environ):
        for words in ("distill tiny gdd --seed 3", "reference digits random", "reference digits pixels"):
            cli(words.split(), standalone_mode=False)
    return folder


@pytest.fixture
def call(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call `gdd` in the project; a UserError is part of what it returns, any other error is raised."""
    monkeypatch.chdir(trained)

    def run(*arguments: Any) -> Result:
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        if result.exception and not isinstance(result.exception, SystemExit | UserError):
            raise result.exception
        return result

    return run


def snapshot(trained: Path) -> Path:
    return trained / RUN / "snapshots" / f"{4 * BATCH:09d}.safetensors"


def test_a_run_and_its_teacher(call: Call, trained: Path) -> None:
    assert call("evaluate", "run", *RUN_ARGUMENTS).exit_code == 0
    metrics = json.loads((RUN / "metrics.json").read_text())
    assert [point["images"] for point in metrics["curve"]] == [2 * BATCH, 4 * BATCH]
    assert metrics["final"]["mean"].keys() == {"fid", "precision", "recall", "density", "coverage"}

    assert call("evaluate", "teacher", "tiny", "tiny", "--steps", 3).exit_code == 0
    teacher = json.loads(Path("results/teachers/tiny/metrics/tiny-steps3.json").read_text())
    assert (teacher["kind"], teacher["evaluations"], teacher["sampler"]["steps"]) == ("teacher", 5, 3)
    with np.load("results/teachers/tiny/samples/tiny-steps3.npz") as samples:
        assert samples["images"].shape[1:] == (8, 8, 1)
    # What the commands wrote is what a table takes.
    Path("config/ablations/both.yaml").write_text(
        "{title: B, setting: tiny, rows: {GDD: {method: gdd}, T: {teacher_steps: 3}}, columns: [fid]}"
    )
    assert call("table", "both").exit_code == 0
    assert "–" not in Path("results/tables/both.md").read_text()

    # Two processes see a part each, and give the same numbers.
    (RUN / "metrics.json").rename(RUN / "one.json")
    for block in (RUN / "state/evaluation").glob("*"):
        block.unlink()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--", "gdd"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, *launcher, "evaluate", "run", *RUN_ARGUMENTS]
    subprocess.run(words, cwd=trained, env=environment, check=True, capture_output=True)
    again = json.loads((RUN / "metrics.json").read_text())
    assert again["provenance"]["processes"] == 2
    assert again["final"]["mean"] == pytest.approx(metrics["final"]["mean"], rel=1e-9)


def test_any_file(call: Call, trained: Path, tmp_path: Path) -> None:
    reference = ["--reference", "results/references/digits", "--extractor", "random"]
    options = [*reference, "--metrics", "fid, kid,pixel-recall", "--samples", 40, "--blocks", 2]
    done = call("evaluate", snapshot(trained), *options, "--out", tmp_path / "out.json")
    assert done.exit_code == 0, done.output
    outcome = json.loads((tmp_path / "out.json").read_text())
    assert outcome["final"]["mean"].keys() == {"fid", "kid", "pixel_recall"}
    assert (len(outcome["final"]["blocks"]), outcome["provenance"]["samples"]) == (2, 40)
    # The same images from a file of them.
    call("sample", snapshot(trained), "--num", 40, "--out", tmp_path / "few.npz")
    again = [*reference, "--samples", 40, "--out", tmp_path / "again.json"]
    call("evaluate", tmp_path / "few.npz", *again)
    found = json.loads((tmp_path / "again.json").read_text())
    assert found["final"]["blocks"][0]["fid"] == outcome["final"]["blocks"][0]["fid"]
    # And as real ones.
    own = ["--images", tmp_path / "few.npz", "--out", tmp_path / "few-ref.npz"]
    assert call("reference", "digits", "random", *own).exit_code == 0
    against = ["--reference", tmp_path / "few-ref.npz", "--extractor", "random", "--samples", 40]
    call("evaluate", tmp_path / "few.npz", *against, "--out", tmp_path / "same.json")
    same = json.loads((tmp_path / "same.json").read_text())["final"]["mean"]["fid"]
    assert same == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--metrics", "lpips"], "there is no metric 'lpips'"),
        (["--extractor", "vgg"], "There is no extractor 'vgg'; there are: random, pixels, inception"),
        (["--extractor", "inception"], "digits/inception.npz does not exist; build it"),
        (["--steps", "3"], "A sampler is for teachers"),
        (["--samples", "5"], "5 images are too few"),
        (["--dataset", "faces"], "faces"),
    ],
)
def test_mistakes(call: Call, trained: Path, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    usual = [
        "--reference",
        "results/references/digits",
        "--extractor",
        "random",
        "--out",
        tmp_path / "x.json",
    ]
    done = call("evaluate", snapshot(trained), *usual, *arguments)
    assert isinstance(done.exception, UserError)
    assert sentence in str(done.exception)
    assert not (tmp_path / "x.json").exists()


def test_sample(call: Call, trained: Path, tmp_path: Path) -> None:
    expected = open_source(snapshot(trained), seed=2).images(5, 6).numpy()
    options = [snapshot(trained), "--seed", 2, "--start", 5, "--num", 6]
    call("sample", *options, "--out", tmp_path / "a.npz")
    assert np.array_equal(np.load(tmp_path / "a.npz")["images"], expected)
    call("sample", *options, "--out", tmp_path / "folder", "--batch", 4)
    files = sorted((tmp_path / "folder").rglob("*.png"))
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), expected[..., 0])
    call("sample", *options, "--out", tmp_path / "grid.png")
    assert np.asarray(Image.open(tmp_path / "grid.png")).shape == (16, 24)
    teacher = ["results/teachers/tiny/model.safetensors", "--num", 3, "--out", tmp_path / "teacher.npz"]
    assert "say how to sample it" in str(call("sample", *teacher).exception)
    call("sample", *teacher, "--steps", 2)
    assert np.load(tmp_path / "teacher.npz")["images"].shape == (3, 8, 8, 1)


def test_code_runs_only_when_its_sha256_is_given(call: Call, trained: Path, tmp_path: Path) -> None:
    weights = trained / "resources/metrics/i.pt"
    weights.parent.mkdir(parents=True, exist_ok=True)
    known = sha256(save_script(StandIn(2, 2, 2), weights))
    np.savez(
        tmp_path / "images.npz", images=np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), np.uint8)
    )
    words = ["reference", "digits", "inception", "--images", tmp_path / "images.npz"]
    words += ["--out", tmp_path / "reference.npz"]
    for trust in ([], ["--trust-sha256", "0" * 64]):
        result = call(*words, *trust)
        assert (
            f"is code (TorchScript) that is not run, because no `checksum` of sources.yaml is its SHA-256, {known}"
            in str(result.exception)
        )
    assert call(*words, "--trust-sha256", known).exit_code == 0
    assert (tmp_path / "reference.npz").is_file()
    file = ["evaluate", "file", tmp_path / "images.npz", "--reference", tmp_path / "reference.npz"]
    file += ["--metrics", "fid", "--samples", 9, "--blocks", 1, "--extractor", "inception"]
    file += ["--out", tmp_path / "metrics.json"]
    assert "is code (TorchScript) that is not run" in str(call(*file).exception)
    assert "is code" not in str(call(*file, "--trust-sha256", known).exception)
