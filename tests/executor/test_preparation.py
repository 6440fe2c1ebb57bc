"""What a job is before it is submitted."""

from __future__ import annotations

import pytest

from snakemake_executor_plugin_submitit.parameters import ResourceError
from snakemake_executor_plugin_submitit.preparation import shows_progress


def test_what_shows_progress_has_no_wildcards_left() -> None:
    assert shows_progress("results/runs/a/state", "train") == "results/runs/a/state"
    assert shows_progress(None, "train") is None
    with pytest.raises(ResourceError, match=r"rule 'train' has progress=.state/{name}., .* function"):
        shows_progress("state/{name}", "train")
