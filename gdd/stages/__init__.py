"""What every stage makes of what, and which part of the configuration decides it.

The one place that rules and commands ask: Snakemake's rules for their inputs, commands for the files that
they read. A stage is a function of the experiments and of the names in its outputs' paths.
"""

from __future__ import annotations

from collections.abc import Callable

from gdd.stages.evaluating import evaluate_external, evaluate_run, evaluate_teacher, import_external
from gdd.stages.making import dataset, distance, distill, features, fetch, pairs, reference, teacher
from gdd.stages.showing import figure, page, table
from gdd.stages.stage import Stage

STAGES: dict[str, Callable[..., Stage]] = {
    function.__name__: function
    for function in (
        fetch,
        dataset,
        features,
        reference,
        distance,
        teacher,
        pairs,
        distill,
        evaluate_run,
        evaluate_teacher,
        import_external,
        evaluate_external,
        table,
        figure,
        page,
    )
}
