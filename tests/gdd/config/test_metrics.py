"""The one table of metrics: whoever names a metric or a column looks into it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from gdd.config.metrics import DERIVED, METRICS, Metric, by_extractor, columns, metric_help
from gdd.config.records import Evaluation
from gdd.errors import UserError


def test_every_entry_is_whole() -> None:
    assert not METRICS.keys() & DERIVED.keys()
    for metric in METRICS.values():
        assert callable(metric.resolve())
        assert metric.title
        assert metric.definition
    headings = [column.heading for column in columns().values()]
    assert len({*headings}) == len(headings)
    assert (METRICS["fid"].heading, METRICS["recall"].heading) == ("FID ↓", "Recall ↑")
    assert DERIVED["fid_difference"].heading == "FID change from row above"


def test_reading_the_table_imports_no_torch() -> None:
    script = "import sys, gdd.config.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_metrics_by_extractor() -> None:
    found = by_extractor(["clean-fid", "fid", "pixel_recall", "kid"], "own")
    assert next(iter(found)) == "own"
    assert found == {"own": ("fid", "kid"), "inception-clean": ("clean_fid",), "pixels": ("pixel_recall",)}
    with pytest.raises(UserError, match=r"there is no metric 'pixel_kid'; did you mean 'pixel_fid'\? there"):
        by_extractor(["pixel_kid"], "own")


def test_a_new_entry_is_known_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="there is no metric 'spread'"):
        Evaluation(extractor="own", samples=9, metrics=("fid", "spread"))
    new = Metric(title="Spread", extractor="clip", needs="features", function=len, definition="spread")
    monkeypatch.setitem(METRICS, "spread", new)
    evaluation = Evaluation(extractor="own", samples=9, metrics=("fid", "spread"))
    assert evaluation.extractors() == ["own", "clip"]
    assert "clip_fid, spread (clip)" in metric_help()
    assert "spread" in Evaluation.model_json_schema()["properties"]["metrics"]["items"]["enum"]
    assert columns()["spread"].heading == "Spread"
