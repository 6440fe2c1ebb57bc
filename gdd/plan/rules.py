"""The workflow's rules as far as a plan needs them: what each makes out of what.

Names, outputs and inputs are those of workflow/rules/; a test compares the jobs with Snakemake's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from gdd.targets import Targets
from gdd.targets.paths import CHOICE_ENDINGS, FIGURE_ENDINGS, TABLE_ENDINGS, dataset_file

NUMBERS = ("seed", "steps", "pairs")
Inputs = Callable[[Targets, Any], Sequence[str | list[str]]]


def _nothing(targets: Targets, wildcards: Any) -> list[str]:  # noqa: ARG001
    return []


def _any(targets: Targets, wildcards: Any) -> bool:  # noqa: ARG001
    return True


@dataclass(frozen=True)
class Rule:
    """One rule. What is `ancient` has to be there, but makes nothing again when it is made again."""

    name: str
    outputs: tuple[str, ...]
    inputs: Inputs
    ancient: Inputs = _nothing
    applies: Callable[[Targets, Any], bool] = _any

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        return [re.compile(_pattern(output)) for output in self.outputs]

    def match(self, targets: Targets, file: str) -> SimpleNamespace | None:
        """Return the wildcards with which the rule makes `file`; None if it does not."""
        for pattern in self._patterns:
            if found := pattern.fullmatch(file):
                wildcards = SimpleNamespace(**found.groupdict())
                return wildcards if self.applies(targets, wildcards) else None
        return None


@dataclass(frozen=True)
class Job:
    """What makes some files; a target makes none."""

    rule: str
    wildcards: Any
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    ancient: frozenset[str] = frozenset()

    def __hash__(self) -> int:
        return hash((self.rule, self.outputs))


def _pattern(template: str) -> str:
    parts = re.split(r"\{(\w+)\}", template)
    text = re.escape(parts[0])
    for name, rest in zip(parts[1::2], parts[2::2], strict=True):
        text += f"(?P<{name}>{'[0-9]+' if name in NUMBERS else '[^/]+'}){re.escape(rest)}"
    return text


def _each(stem: str, endings: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{stem}.{ending}" for ending in endings)


def _table(targets: Targets, wildcards: Any) -> bool:
    return wildcards.table in targets.config.ablations


def _published(targets: Targets, wildcards: Any) -> bool:
    return targets.config.teachers[wildcards.teacher].published is not None


def _judged_by(targets: Targets, w: Any) -> list[str | list[str]]:
    return [targets.reference_data(w), targets.judges(w)]


def _judged_against(targets: Targets, w: Any) -> list[str | list[str]]:
    return [targets.references(w)]


RUN = "results/runs/{setting}/{run}/seed{seed}"
TEACHER = "results/teachers/{teacher}"
EXTERNAL = "results/external/{setting}/{external}"
MODEL = ("model.safetensors", "model.json")

RULES = (
    Rule("fetch", ("results/fetched/{name}.json",), _nothing),
    Rule(
        "dataset",
        tuple(
            f"results/datasets/{{dataset}}/{file}"
            for file in ("identity.json", "images.npy", "labels.npy", "dataset.json")
        ),
        lambda t, w: [t.dataset_fetched(w)],
    ),
    Rule("feature_network", ("results/features/{name}.safetensors",), lambda t, w: [t.features_data(w)]),
    Rule(
        "pixel_reference",
        ("results/references/{dataset}/pixels.npz",),
        lambda _, w: [dataset_file(w.dataset)],
    ),
    Rule(
        "reference_distance",
        ("results/references/{dataset}/{name}-published.json",),
        lambda t, w: [f"results/references/{w.dataset}/{w.name}.npz", t.statistics_fetched(w)],
    ),
    Rule(
        "reference",
        ("results/references/{dataset}/{name}.npz",),
        lambda t, w: [dataset_file(w.dataset), t.reference_judge(w)],
    ),
    Rule(
        "import_teacher",
        tuple(f"{TEACHER}/{name}" for name in MODEL),
        lambda t, w: [t.teacher_fetched(w)],
        applies=_published,
    ),
    Rule(
        "teacher",
        tuple(
            f"{TEACHER}/{name}" for name in ("model.safetensors", "model.json", "teacher.json", "log.jsonl")
        ),
        lambda t, w: [t.teacher_data(w)],
        applies=lambda t, w: not _published(t, w),
    ),
    Rule(
        "pairs",
        ("results/pairs/{teacher}/steps{steps}-{pairs}.safetensors",),
        lambda _, w: [f"results/teachers/{w.teacher}/model.json"],
        lambda _, w: [f"results/teachers/{w.teacher}/model.safetensors"],
    ),
    Rule(
        "distill",
        tuple(f"{RUN}/{name}" for name in ("run.json", "log.jsonl", "snapshots", "samples")),
        lambda t, w: [t.run_data(w), t.run_teacher_identity(w), t.run_backbones(w), t.run_fetched(w)],
        lambda t, w: [t.run_teacher(w), t.run_pairs(w), t.run_monitor(w)],
    ),
    Rule(
        "evaluate_run",
        (f"{RUN}/metrics.json",),
        lambda t, w: [
            *(f"results/runs/{w.setting}/{w.run}/seed{w.seed}/{name}" for name in ("run.json", "snapshots")),
            *_judged_by(t, w),
        ],
        _judged_against,
    ),
    Rule(
        "evaluate_teacher",
        (
            f"{TEACHER}/metrics/{{setting}}-steps{{steps}}.json",
            f"{TEACHER}/samples/{{setting}}-steps{{steps}}.npz",
        ),
        lambda t, w: [f"results/teachers/{w.teacher}/model.json", *_judged_by(t, w)],
        lambda t, w: [f"results/teachers/{w.teacher}/model.safetensors", *_judged_against(t, w)],
    ),
    Rule(
        "import_external",
        tuple(f"{EXTERNAL}/{name}" for name in MODEL),
        lambda t, w: [t.external_fetched(w)],
    ),
    Rule(
        "evaluate_external",
        tuple(f"{EXTERNAL}/{name}" for name in ("metrics.json", "samples.npz")),
        lambda t, w: [t.external_read(w), *_judged_by(t, w)],
        lambda t, w: [t.external_weights(w), *_judged_against(t, w)],
    ),
    Rule(
        "choice",
        _each("results/tables/{table}-choice", CHOICE_ENDINGS),
        lambda t, w: t.table_inputs(w),
        applies=_table,
    ),
    Rule(
        "table",
        _each("results/tables/{table}", TABLE_ENDINGS),
        lambda t, w: t.table_inputs(w),
        applies=_table,
    ),
    *(
        Rule(f"{kind}_figure", _each(f"results/figures/{{table}}-{kind}", FIGURE_ENDINGS), inputs)
        for kind, inputs in (
            ("curve", lambda t, w: t.table_inputs(w)),
            ("spread", lambda t, w: t.table_inputs(w)),
            ("samples", lambda t, w: t.sample_inputs(w)),
        )
    ),
    Rule("page", ("results/site/{page}.html",), lambda t, w: t.page_inputs(w)),
)


def job_of(targets: Targets, file: str) -> Job | None:
    """Return what makes `file`; None if no rule does."""
    for rule in RULES:
        wildcards = rule.match(targets, file)
        if wildcards is not None:
            ancient = _flat(rule.ancient(targets, wildcards))
            outputs = tuple(output.format(**vars(wildcards)) for output in rule.outputs)
            inputs = tuple(dict.fromkeys([*_flat(rule.inputs(targets, wildcards)), *ancient]))
            return Job(rule.name, wildcards, outputs, inputs, frozenset(ancient))
    return None


def _flat(files: Sequence[str | list[str]]) -> list[str]:
    return [file for part in files for file in ([part] if isinstance(part, str) else part)]
