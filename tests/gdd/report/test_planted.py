"""Changes planted into metrics.json and run.json: every one is refused; what is only elsewhere is not."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from pathlib import Path

import pytest

from gdd.errors import UserError
from gdd.report.table import build_table

RUN = "results/runs/digits/gdd/seed0"
OTHER = "results/runs/digits/gdd-i/seed0"
TEACHER = "results/teachers/digits/metrics/digits-steps18.json"
GONE = object()
SHA = "f" * 64

METRICS = {  # field -> what is planted there
    "kind": "teacher",
    "evaluations": 2,
    "recipe_hash": "0" * 16,
    "seed": 1,
    "final": GONE,
    "final.images": 16_000,
    "final.weights_sha256": SHA,
    "final.blocks": [],
    "final.blocks.0": GONE,
    "final.blocks.1": GONE,
    "final.blocks.2": GONE,
    "final.blocks.1.fid": 0.31,
    "final.blocks.1.start": 0,
    "final.blocks.2.recall": GONE,
    "final.mean": GONE,
    "final.mean.fid": 0.49,
    "final.mean.precision": 7.0,
    "final.mean.recall": GONE,
    "final.mean.density": 1.0,
    "final.mean.nearest": "0.94",
    "final.mean.pixel_fid": math.nan,
    "final.mean.pixel_recall": None,
    "final.sampling_std.fid": 0.001,
    "final.sampling_std.recall": None,
    "best": GONE,
    "best.images": 19_200,
    "best.weights_sha256": SHA,
    "best.mean.fid": 0.2,
    "best.blocks.0.fid": 0.1,
    "best.blocks.2": GONE,
    "also_at.9600.images": 6_400,
    "also_at.9600.weights_sha256": SHA,
    "also_at.9600.mean.fid": 0.3,
    "curve.0.fid": -1.0,
    "curve.0.images": 3_201,
    "curve.1.images": 3_200,
    "curve.1.fid": 0.1,
    "curve.8.fid": 0.3,
    "curve.4.images": GONE,
    "definitions": {},
    "definitions.fid": "Frechet distance with unbiased covariances, of 50,000 generated images",
    "references": {},
    "references.digits-judge.dataset": "other",
    "references.digits-judge.dataset_sha256": SHA,
    "references.digits-judge.sha256": SHA,
    "references.digits-judge.extractor_sha256": SHA,
    "references.digits-judge.count": 50_000,
    "references.pixels": GONE,
    "references.pixels.sha256": SHA,
    "references.pixels.resolution": 32,
    "floor": [],
    "floor.fid": 0.5,
    "floor.recall": 1.5,
    "provenance": GONE,
    "provenance.samples": 50_000,
    "provenance.blocks": 1,
    "provenance.latent_seed": 1,
    "provenance.dataset": "other",
    "provenance.dataset_sha256": SHA,
    "provenance.reference_images": 10,
    "provenance.extractor": "digits-random",
    "provenance.extractor_sha256": SHA,
}
TEACHERS = {
    "kind": "student",
    "evaluations": 1,
    "sampler.steps": 35,
    "sampler.churn": 40.0,
    "final.images": 1,
    "final.weights_sha256": SHA,
    "final.blocks.1": GONE,
    "final.mean.fid": 0.5,
    "provenance.samples": 1_000,
}
RUNS = {
    "recipe": [],
    "recipe.batch": 128,
    "recipe.lr.generator": 1e-3,
    "recipe.unknown": 1,
    "recipe.ema": "none",
    "recipe_hash": "0" * 16,
    "seed": 1,
    "images": 16_000,
    "inputs": GONE,
    "inputs.data": SHA,
    "inputs.teacher": SHA,
    "inputs.backbone digits-random": SHA,
    "parameters.trainable": 1,
    "seconds": -1.0,
    "sessions": {},
    "snapshots": {"000028800": SHA},
}
CASES = [
    (file, field, value)
    for file, fields in ((f"{RUN}/metrics.json", METRICS), (TEACHER, TEACHERS), (f"{RUN}/run.json", RUNS))
    for field, value in fields.items()
]


@pytest.fixture(scope="module")
def made(make_project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    return make_project(folder), folder


@pytest.fixture
def experiments(made, monkeypatch):
    """The project, whose results are as they were when the test is done."""
    monkeypatch.chdir(made[1])
    shutil.copytree("results", "before")
    yield made[0]
    shutil.rmtree("results")
    Path("before").rename("results")


def plant(file, field, value):
    data = json.loads(Path(file).read_text())
    *parents, last = [int(key) if key.isdigit() and len(key) == 1 else key for key in field.split(".")]
    part = data
    for key in parents:
        part = part[key]
    if value is GONE:
        del part[last]
    else:
        assert not isinstance(part, dict) or part.get(last) != value
        part[last] = value
    Path(file).write_text(json.dumps(data))


@pytest.mark.parametrize(("file", "field", "value"), CASES, ids=[f"{Path(f).name}-{k}" for f, k, _ in CASES])
def test_a_planted_change_is_refused_with_file_field_and_command(experiments, file, field, value):
    plant(file, field, value)
    with pytest.raises(UserError) as caught:
        build_table(experiments, "objectives")
    sentence = str(caught.value)
    if field == "snapshots":  # of which metrics.json is not
        file, field = f"{RUN}/metrics.json", "final.weights_sha256"
    # Of two rows that differ the later is named, with the earlier.
    assert file in sentence
    names = [part for part in field.split(".") if not part.isdigit() and part != "backbone digits-random"]
    assert any(name in sentence for name in [*names[-1:], *names[:1]]), sentence
    assert "`snakemake --cores 2 results/" in sentence
    assert sentence.count("\n") == 0


@pytest.mark.parametrize("name", ["metrics.json", "run.json"])
@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "3", "\x00", "[" * 9])
def test_something_else_in_its_place_is_refused(experiments, name, text):
    Path(RUN, name).write_text(text)
    with pytest.raises(UserError, match=name):
        build_table(experiments, "objectives")


@pytest.mark.parametrize("name", ["metrics.json", "run.json"])
def test_the_file_of_another_run_is_refused(experiments, name):
    shutil.copy(Path(OTHER, name), Path(RUN, name))
    with pytest.raises(UserError, match=rf"{RUN}/{name}: .* instead of|another recipe"):
        build_table(experiments, "objectives")


def another(machine):
    return {"revision": machine * 40, "device": f"GPU {machine}", "threads": 1}


@pytest.mark.parametrize(
    "happened", ["resumed elsewhere", "evaluated again", "moved", "removed in part", "of an earlier version"]
)
def test_what_changes_no_number_is_not_refused(experiments, tmp_path, happened):
    before = build_table(experiments, "objectives").cells
    place = contextlib.nullcontext()
    if happened == "resumed elsewhere":
        plant(f"{RUN}/run.json", "sessions", [another("a"), another("b")])
        plant(f"{RUN}/run.json", "peak_memory_mib", 3)
    elif happened == "evaluated again":
        for key, value in another("b").items():
            plant(f"{RUN}/metrics.json", f"provenance.{key}", value)
        plant(f"{RUN}/metrics.json", "provenance.date", "2027-01-01")
        plant(f"{RUN}/metrics.json", "seconds", 3.0)
    elif happened == "moved":
        shutil.copytree("results", tmp_path / "results")
        place = contextlib.chdir(tmp_path)
    elif happened == "removed in part":
        for name in ("datasets", "features", "references", "teachers/digits/model.json"):
            path = Path("results", name)
            path.unlink() if path.is_file() else shutil.rmtree(path)
    else:
        for field in ("recipe_hash", "seed", "provenance.date"):
            plant(f"{RUN}/metrics.json", field, GONE)
        plant(f"{RUN}/run.json", "snapshots", GONE)
    with place:
        assert repr(build_table(experiments, "objectives").cells) == repr(before)
