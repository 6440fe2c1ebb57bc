"""Reading metrics.json and run.json: what is evaluated in a row of a table, checked before it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gdd.config.recipe import Recipe
from gdd.config.record import RecordT, parse
from gdd.config.records import EVALUATION_SEED
from gdd.errors import UserError
from gdd.experiments import Experiments, Run, TableRow
from gdd.files import read_json, sha256
from gdd.report.result_files import MetricsFile, RunFile
from gdd.stages.evaluating import evaluate_external, evaluate_run, evaluate_teacher
from gdd.stages.inputs import reference_dataset
from gdd.stages.making import distill
from gdd.stages.stage import Input, Stage

Key = tuple[str | None, int | None]  # teacher and seed

INPUTS = {"lpips": "VGG of LPIPS", "embedding": "class embedding"}  # what run.json calls them


@dataclass(frozen=True)
class Evaluated:
    """One evaluation in a row: of a run, of a teacher, of what others published, or of real images."""

    metrics: Mapping[str, Any]  # of metrics.json
    teacher: str | None = None
    run: Run | None = None
    record: Mapping[str, Any] = field(default_factory=dict)  # of run.json

    @property
    def key(self) -> Key:
        return self.teacher, self.run.seed if self.run else None


def _refusal(path: Path, problem: str) -> UserError:
    return UserError(f"{path}: {problem}; delete it and run `snakemake --cores 2 {path}`.")


def _parsed(kind: type[RecordT], data: Any, path: Path) -> RecordT:
    try:
        return parse(kind, data, path)
    except UserError as error:
        raise _refusal(path, str(error).removeprefix(f"{path}: ").removesuffix(".")) from None


def _compare(path: Path, data: Any, expected: Mapping[str, Any]) -> None:
    """Refuse a file that holds something else; None is not known.

    Raises:
        UserError: naming the file and the first such field.
    """
    for key, wanted in expected.items():
        found = data
        for part in key.split("/"):
            found = found.get(part) if isinstance(found, dict) else None
        if wanted is not None and (type(found), found) != (type(wanted), wanted):
            raise _refusal(path, f"'{key.replace('/', '.')}' is {found!r} instead of {wanted!r}")


class Reader:
    """Reads what the rows of a table are made of, and refuses what is not of what they should be.

    Hashes are compared with those of files that are there: a folder of results may have been moved in part.
    What earlier versions did not write is not compared.
    """

    def __init__(self, experiments: Experiments) -> None:
        self.of = experiments
        self._hashes: dict[Path, str | None] = {}
        self._first: dict[tuple[str, str], tuple[Path, Any]] = {}

    def missing(self, row: TableRow) -> list[Path]:
        """Return the files that a row is made of and that are not there."""
        files = [*row.metrics(), *(run.folder / "run.json" for run in row.runs)]
        return [file for file in files if not file.is_file()]

    def read(self, row: TableRow) -> list[Evaluated]:
        """Return what was evaluated in a row whose files are all there.

        Raises:
            UserError: a file is damaged, or of something else.
        """
        if row.runs:
            return [self._run(row, run, path) for run, path in zip(row.runs, row.metrics(), strict=True)]
        names: Sequence[str | None] = row.teachers or (None,)
        return [self._other(row, name, path) for name, path in zip(names, row.metrics(), strict=True)]

    def _run(self, row: TableRow, run: Run, path: Path) -> Evaluated:
        facts, record = run.folder / "run.json", read_json(run.folder / "run.json")
        told, recipe = _parsed(RunFile, record, facts), run.recipe
        self._check_recipe(run, told.recipe, facts)
        stage = distill(self.of, run.setting, run.id, run.seed)
        inputs = {f"inputs/{INPUTS.get(role, role)}": self._hash(of) for role, of in stage.inputs.items()}
        images = -(-recipe.images // recipe.batch) * recipe.batch  # to the end of a batch
        expected = {"recipe_hash": recipe.fingerprint(), "seed": run.seed, "images": images}
        _compare(facts, record, expected | inputs)
        if told.parameters.trainable + told.parameters.frozen != told.parameters.total:
            raise _refusal(facts, "'parameters.total' is not the sum of 'trainable' and 'frozen'")

        stage = evaluate_run(self.of, run.setting, run.id, run.seed)
        data, found = self._metrics(row, path, stage, "student", recipe.generator_steps)
        identity = {key: record[key] for key in ("recipe_hash", "seed") if key in data}
        _compare(path, data, {**identity, "final/images": recipe.images})
        if found.best is None:
            raise _refusal(path, "'best' is missing")
        for where, snapshot in found.snapshots().items():
            known = told.snapshots.get(f"{snapshot.images:09d}")
            _compare(path, data, {f"{where.replace('.', '/')}/weights_sha256": known})
        images_of = {f"{where}.images": of.images for where, of in found.snapshots().items()}
        images_of |= {f"curve.{index}.images": int(of["images"]) for index, of in enumerate(found.curve)}
        for where, images in images_of.items():
            if images not in recipe.snapshots():
                raise _refusal(path, f"'{where}' is {images}, at which the run keeps no snapshot")
        return Evaluated(data, recipe.teacher, run, record)

    def _check_recipe(self, run: Run, recipe: Mapping[str, Any], path: Path) -> None:
        try:
            same = parse(Recipe, recipe, path) == run.recipe
        except UserError:
            same = False
        if not same:
            raise _refusal(path, "'recipe' is another recipe than the configuration now gives")

    def _other(self, row: TableRow, teacher: str | None, path: Path) -> Evaluated:
        config = self.of.config
        if teacher and row.teacher_steps:
            stage = evaluate_teacher(self.of, row.setting, teacher, row.teacher_steps)
            how = config.settings[row.setting].teacher_sampler.model_copy(update={"steps": row.teacher_steps})
            data, _ = self._metrics(row, path, stage, "teacher", how.evaluations)
            expected: dict[str, Any] = {"sampler": how.model_dump(mode="json")}
            expected["final/weights_sha256"] = self._hash(stage.inputs["teacher"])
        else:
            record = config.external[str(row.external)]
            stage = evaluate_external(self.of, row.setting, str(row.external))
            data, _ = self._metrics(row, path, stage, "external", record.evaluations)
            generator = stage.inputs.get("generator")
            weights = self._hash(generator) if generator else None
            expected = {"licence": record.licence, "final/weights_sha256": weights}
        _compare(path, data, {"final/images": 0, **expected})
        return Evaluated(data, teacher)

    def _metrics(
        self, row: TableRow, path: Path, stage: Stage, kind: str, evaluations: int | None
    ) -> tuple[Any, MetricsFile]:
        """Return metrics.json after what every evaluation of a setting has in common was checked."""
        evaluation, data = self.of.config.settings[row.setting].evaluation, read_json(path)
        found = _parsed(MetricsFile, data, path)
        file = row.external is not None and "generator" not in stage.inputs  # of images, which has an end
        blocks = found.provenance.blocks if file else evaluation.blocks
        own, used = evaluation.extractor, evaluation.extractors()
        networks = {name: self._hash(stage.inputs.get(f"extractor {name}")) for name in used}
        expected = {
            "kind": kind,
            "evaluations": evaluations,
            "provenance/samples": evaluation.samples,
            "provenance/blocks": min(max(blocks, 1), evaluation.blocks),
            "provenance/latent_seed": None if file else EVALUATION_SEED,
            "provenance/dataset": reference_dataset(self.of.config, row.setting),
            "provenance/dataset_sha256": self._hash(stage.inputs["data"]),
            "provenance/extractor": own,
            "provenance/extractor_sha256": networks[own],
        }
        for name, reference in zip(used, stage.inputs["references"].present, strict=True):
            expected |= {
                f"references/{name}/dataset": expected["provenance/dataset"],
                f"references/{name}/dataset_sha256": found.provenance.dataset_sha256,
                f"references/{name}/extractor_sha256": networks[name],
                f"references/{name}/sha256": self._hash(Input(reference, (reference,))),
            }
        _compare(path, data, expected)
        for problem in found.problems(evaluation, blocks):
            raise _refusal(path, problem)
        for key in ("floor", "references"):  # equal in all rows of a setting
            first, value = self._first.setdefault((row.setting, key), (path, data[key]))
            if value != data[key]:
                raise _refusal(
                    path, f"'{key}' differs from that of {first}, which is compared with the same images"
                )
        return data, found

    def _hash(self, of: Input | None) -> str | None:
        """Return the hash of what a stage reads, by the small file that it watches; None without one."""
        path = Path(of.watched[0]) if of and of.watched else None
        if path is None or not path.is_file():
            return None
        if path not in self._hashes:
            content = read_json(path) if path.suffix == ".json" else {"sha256": sha256(path)}
            self._hashes[path] = content.get("sha256") if isinstance(content, dict) else ""
        return self._hashes[path]
