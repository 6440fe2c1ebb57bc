"""A small results folder with made-up numbers, and the configuration that asks for it."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_results import (
    CONFIG,
    FIDS,
    FLOOR,
    KEYS,
    NUMBERS,
    PROVENANCE,
    REFERENCES,
    REPEATED,
    SETTING,
    SHA,
    TABLES,
    TARGET,
)

from gdd import paths
from gdd.config.config import load_config
from gdd.config.metrics import METRICS
from gdd.config.records import Setting
from gdd.experiments import Experiments, Run
from gdd.report.table import Table, build_table


@pytest.fixture(scope="session")
def make_project() -> Callable[..., Experiments]:
    """Write the configuration above, with further ablations and other files, and the results of some tables.

    These are all further ablations, or `objectives` and `frozen-layers`. `fids` has the FID of every run of a
    row, by its title, and of every teacher in a teacher's.
    """

    def make(
        folder: Path,
        *,
        seeds: Sequence[int] = (0,),
        other: Mapping[str, str] | None = None,
        blocks: int = 3,
        fids: Mapping[str, Sequence[float]] | None = None,
        **ablations: str,
    ) -> Experiments:
        ablations = {name.replace("_", "-"): text for name, text in ablations.items()}
        files = CONFIG | {f"ablations/{name}": text for name, text in ablations.items()} | dict(other or {})
        files |= {name: text.replace("blocks: 3", f"blocks: {blocks}") for name, text in files.items()}
        files["config"] = f"seeds: {list(seeds)}\ntargets: {{demo: {TARGET}}}\n"
        for name, text in files.items():
            path = folder / "config" / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        experiments, rng = Experiments(load_config(folder / "config")), np.random.default_rng(0)
        write_inputs(folder)
        for row in (row for name in ablations or TABLES for row in experiments.rows(name)):
            wanted = (fids or {}).get(row.title)
            for index, teacher in enumerate(row.teachers):
                steps = row.teacher_steps or 0
                given = NUMBERS[f"steps{steps}"]
                setting = experiments.config.settings[row.setting]
                metrics = evaluated(setting, given, blocks, wanted[index] - given[0] if wanted else 0.0)
                metrics |= {"kind": "teacher", "evaluations": 2 * steps - 1}
                how = setting.teacher_sampler.model_copy(update={"steps": steps})
                metrics |= {"sampler": how.model_dump(mode="json")}
                metrics["final"] |= {"images": 0, "weights_sha256": SHA[teacher]}
                put(folder / paths.teacher_metrics(teacher, row.setting, steps), metrics)
                images(folder / paths.teacher_samples(teacher, row.setting, steps), rng)
            for index, run in enumerate(row.runs):
                given = NUMBERS.get(run.id) or NUMBERS[row.method or ""]
                setting = experiments.config.settings[row.setting]
                write_run(folder, run, setting, given, blocks, rng, wanted[index] if wanted else None)
        return experiments

    return make


@pytest.fixture
def project(
    make_project: Callable[..., Experiments], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Experiments]:
    """Return `make_project` for the current folder."""
    monkeypatch.chdir(tmp_path)
    return partial(make_project, tmp_path)


@pytest.fixture
def setting() -> Callable[[str], str]:
    """Return a function that gives the text of a setting with another title."""
    return lambda title: SETTING.format(title=title)


@pytest.fixture
def repeat(project: Callable[..., Experiments]) -> Callable[..., Table]:
    """Return a function that makes the repeated table, with claims and with other FIDs of some rows."""

    def make(claims: str = "", **fids: Sequence[float]) -> Table:
        given = {title.replace("_", "-"): values for title, values in fids.items()}
        return build_table(project(repeated=REPEATED + claims, fids=FIDS | given), "repeated")

    return make


@pytest.fixture(name="over")
def _over() -> Callable[..., dict[str, Any]]:
    """Return a function that puts blocks together as the evaluation does."""
    return over


@pytest.fixture
def change() -> Callable[..., None]:
    """Return a function that changes metrics.json of some runs: the last snapshot's values (None: they have
    none), or what stands at the top."""

    def change(runs: str, mean: Mapping[str, Any] | None = None, **top: Any) -> None:
        for path in Path("results/runs").glob(f"{runs}/metrics.json"):
            metrics = json.loads(path.read_text()) | top
            for key, value in (mean or {}).items():
                points = [point for point in metrics["curve"][-1:] if key in point]
                for part in (*points, *metrics["final"]["blocks"]):
                    part.pop(key, None)
                    part |= {} if value is None else {key: value}
            metrics["final"] |= over(metrics["final"]["blocks"])
            path.write_text(json.dumps(metrics))

    return change


def write_inputs(project: Path) -> None:
    """Write what a table looks into for hashes."""
    put(project / "results/datasets/digits/identity.json", {"sha256": SHA["data"]})
    for teacher in ("digits", "digits-b"):
        put(project / paths.teacher_folder(teacher) / "model.json", {"sha256": SHA[teacher]})
    for name in ("digits-judge", "digits-classifier", "digits-random"):
        path = project / paths.network_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    for name in REFERENCES:
        path = project / paths.reference_file("digits", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"reference of {name}")


def write_run(
    project: Path,
    run: Run,
    setting: Setting,
    given: tuple[float, ...],
    blocks: int,
    rng: np.random.Generator,
    fid: float | None = None,
) -> None:
    folder = project / run.folder
    drift = 0.1 * (run.seed - 0.5) * given[0] if run.seed else 0.0
    metrics = evaluated(setting, given, blocks, drift if fid is None else fid - given[0])
    hashes = {
        f"{n:09d}": hashlib.sha256(f"{run.folder} {n}".encode()).hexdigest() for n in run.recipe.snapshots()
    }

    def snapshot(images: int, each: list[dict[str, float]]) -> dict[str, Any]:
        return {"images": images, "weights_sha256": hashes[f"{images:09d}"], **over(each)}

    level, final = metrics["final"]["mean"]["fid"], metrics["final"]["blocks"]
    # Chosen by block 0, where it comes out lower than on the others.
    chosen = [{**block, "fid": max(0.0, level - (0.05 if block["start"] else 0.2))} for block in final]
    early = [{**block, "fid": 3.0} for block in final]
    curve = [
        {"images": n, "fid": level + 60 * np.exp(-n / 3000) + 0.05 * rng.random()}
        | ({"pixel_fid": given[3]} if "pixel_fid" in final[0] else {})
        for n in run.recipe.snapshots()
    ]
    full = {run.recipe.images: final, 16_000: chosen, 9_600: early}
    for point in curve:
        if point["images"] in full:
            point |= {key: value for key, value in full[point["images"]][0].items() if key in point}
    metrics |= {
        "kind": "student",
        "evaluations": 1,
        "recipe_hash": run.recipe.fingerprint(),
        "seed": run.seed,
        "final": snapshot(run.recipe.images, final),
        "best": {**snapshot(16_000, chosen), "rule": "lowest on block 0"},
        "also_at": {"9600": snapshot(9_600, early)},
        "curve": curve,
    }
    put(folder / "metrics.json", metrics)
    frozen = 0 if run.recipe.freeze == "none" else 590_000
    backbones = {
        f"backbone {name}": hashlib.sha256(name.encode()).hexdigest() for name in run.recipe.backbones
    }
    record = {
        "recipe": run.recipe.model_dump(mode="json"),
        "recipe_hash": run.recipe.fingerprint(),
        "seed": run.seed,
        "inputs": {"data": SHA["data"], "teacher": SHA[run.recipe.teacher], **backbones},
        "parameters": {"total": 749_000, "trainable": 749_000 - frozen, "frozen": frozen},
        "frozen": [] if not frozen else ["model.enc.conv0.weight"],
        "images": run.recipe.images,
        "seconds": 53.9 + run.seed,
        "peak_memory_mib": 612.5,
        "snapshots": hashes,
        "sessions": [{"revision": "d" * 40, "device": "CPU (x86_64)", "threads": 2}],
    }
    put(folder / "run.json", record)
    images(folder / "samples" / f"{run.recipe.images:09d}.npz", rng)


def evaluated(setting: Setting, given: tuple[float, ...], blocks: int, offset: float) -> dict[str, Any]:
    mean = dict(zip(KEYS, given, strict=False))
    mean["fid"] += offset
    mean = {key: value for key, value in mean.items() if key in setting.evaluation.wanted()}
    spread = {key: given[7] if key == "fid" else min(0.01, mean[key]) for key in mean}
    # Mean and standard deviation of three blocks are as given; so is the mean of the last two.
    signs = (0, -1, 1) if blocks == 3 else (0,) * blocks
    each = [
        {"start": 2000 * block, **{key: mean[key] + sign * spread[key] for key in mean}}
        for block, sign in enumerate(signs)
    ]
    return {
        "final": over(each),
        "floor": FLOOR,
        "definitions": {
            name: f"{METRICS[name].definition}, of 2,000 generated images, on <features>"
            for name in setting.evaluation.wanted()
        },
        "references": {name: REFERENCES[name] for name in setting.evaluation.extractors()},
        "provenance": {**PROVENANCE, "blocks": blocks},
    }


def over(blocks: list[dict[str, float]]) -> dict[str, Any]:
    """Return blocks with what they have in common, as the evaluation writes it."""
    values = {key: [block[key] for block in blocks] for key in blocks[0] if key != "start"}
    return {
        "blocks": blocks,
        "mean": {key: statistics.fmean(of) for key, of in values.items()},
        "sampling_std": {key: statistics.stdev(of) if len(of) > 1 else None for key, of in values.items()},
        "minimum": {key: min(of) for key, of in values.items()},
    }


def put(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def images(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=rng.integers(0, 256, (64, 8, 8, 1), dtype=np.uint8))
