"""An evaluation that was interrupted or is asked for more does what is missing, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from judged_runs import EVALUATION, judges_of, make_run, write_references

from gdd.config.evaluation import Evaluation
from gdd.metrics import judging
from gdd.metrics.stages import evaluate_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_references(world, tmp_path_factory.mktemp("references"))


@pytest.fixture
def references(world: Any, folder: Path) -> Any:
    return judges_of(world, folder)


def test_an_interrupted_evaluation_goes_on(
    world: Any, tmp_path: Path, references: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = (make_run(world, tmp_path / name, scales=(1, 3, 2)) for name in ("whole", "killed"))
    expected, original = evaluate_run(whole, EVALUATION, references), judging.evaluate_block
    done: list[tuple[str, int]] = []
    fail_after = 0

    def count(generate: Any, *, start: int, **options: Any) -> Any:
        if len(done) == fail_after:
            raise KeyboardInterrupt
        done.append((Path(generate.__self__.name).stem, start))
        return original(generate, start=start, **options)

    monkeypatch.setattr(judging, "evaluate_block", count)
    for fail_after in range(1, 6):  # noqa: B007
        with pytest.raises(KeyboardInterrupt):
            evaluate_run(folder, EVALUATION, references)
    fail_after = -1
    metrics = evaluate_run(folder, EVALUATION, references)
    assert {**metrics, "seconds": 0} == {**expected, "seconds": 0}
    # The last snapshot on both blocks, the others on the first; then the best on both, with every metric.
    best = f"{metrics['best']['images']:09d}"
    passes = [("000000048", 0), ("000000048", 80), ("000000016", 0), ("000000032", 0), (best, 0), (best, 80)]
    assert sorted(done) == sorted(passes)
    # Once more, nothing is done.
    evaluate_run(folder, EVALUATION, references)
    assert len(done) == len(passes)


def test_judged_again_the_curve_keeps_the_snapshots_that_were_removed(
    world: Any, tmp_path: Path, folder: Path
) -> None:
    run = make_run(world, tmp_path, scales=(1, 3, 2))
    before = evaluate_run(run, EVALUATION, judges_of(world, folder))
    (gone,) = {16, 32} - {before["best"]["images"]}
    (run / "snapshots" / f"{gone:09d}.safetensors").unlink()
    more = Evaluation(extractor="one", samples=80, blocks=2, metrics=("fid", "kid", "pixel_fid"))
    after = evaluate_run(run, more, judges_of(world, folder, more))
    assert after["curve"] == before["curve"]
    assert after["best"]["images"] == before["best"]["images"]
    assert "kid" in after["final"]["mean"]
    # Judged otherwise, the old numbers do not count.
    fewer = more.model_copy(update={"samples": 70})
    curve = evaluate_run(run, fewer, judges_of(world, folder, fewer))["curve"]
    assert gone not in [point["images"] for point in curve]
