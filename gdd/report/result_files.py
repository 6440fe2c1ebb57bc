"""What metrics.json and run.json hold as far as tables show it: types, ranges, what contradicts itself."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from gdd.config.metrics import METRICS
from gdd.config.record import NotNegative, Record
from gdd.config.records import Evaluation

EQUAL: dict[str, float] = {"rel_tol": 1e-6, "abs_tol": 1e-9}  # numbers computed twice


def _in_range(values: dict[str, float]) -> dict[str, float]:
    for name, value in values.items():
        metric = METRICS.get(name)  # or a spread, or a count
        low, high = (metric.least, metric.most) if metric else (0.0, math.inf)
        if not low <= value <= high:
            raise ValueError(f"'{name}' is {value:g}, which cannot be: it lies between {low:g} and {high:g}")
    return values


Values = Annotated[dict[str, float], AfterValidator(_in_range)]


class Part(Record):
    """Part of a file, of which other keys are not looked at."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _knows_its_keys(cls, data: Any) -> Any:
        return data


class Snapshot(Part):
    images: NotNegative
    weights_sha256: str
    blocks: Annotated[tuple[Values, ...], Field(min_length=1)]
    mean: Values
    sampling_std: dict[str, float | None]

    def problems(self, where: str, samples: int, blocks: int) -> Iterator[str]:
        """Say what of the blocks and their mean is not as it should be."""
        if len(self.blocks) != blocks:
            yield f"'{where}.blocks' holds {len(self.blocks)} blocks instead of {blocks}"
        for index, block in enumerate(self.blocks):
            if block.get("start") != index * samples:
                yield f"'{where}.blocks.{index}.start' is {block.get('start')} instead of {index * samples}"
        common = set.intersection(*map(set, self.blocks)) - {"start"}
        for name in sorted(common ^ self.mean.keys()):
            yield f"'{where}.mean' and the blocks do not both hold '{name}'"
        for name in sorted(common & self.mean.keys()):
            values = [block[name] for block in self.blocks]
            mean, std = statistics.fmean(values), statistics.stdev(values) if blocks > 1 else None
            if not math.isclose(self.mean[name], mean, **EQUAL):
                yield f"'{where}.mean.{name}' is {self.mean[name]}, but the mean of the blocks is {mean}"
            told = self.sampling_std.get(name)
            if (std is None) != (told is None) or not math.isclose(std or 0.0, told or 0.0, **EQUAL):
                yield f"'{where}.sampling_std.{name}' is {told}, but that of the blocks is {std}"


class Provenance(Part):
    samples: int
    blocks: int
    dataset_sha256: str
    reference_images: int | None
    extractor_sha256: str


class Reference(Part):
    sha256: str
    count: int | None
    extractor_sha256: str


class MetricsFile(Part):
    kind: str
    evaluations: int | None
    final: Snapshot
    best: Snapshot | None = None
    also_at: dict[str, Snapshot] = {}
    curve: tuple[Values, ...] = ()
    definitions: dict[str, str]
    references: dict[str, Reference]
    floor: Values
    provenance: Provenance

    def snapshots(self) -> dict[str, Snapshot]:
        """Return what was evaluated on every block, by where it stands."""
        also = {f"also_at.{images}": of for images, of in self.also_at.items()}
        return {"final": self.final, **({"best": self.best} if self.best else {}), **also}

    def problems(self, evaluation: Evaluation, blocks: int) -> Iterator[str]:
        """Say what contradicts itself or the evaluation."""
        own = self.references[evaluation.extractor]
        if self.provenance.extractor_sha256 != own.extractor_sha256:
            yield f"'provenance.extractor_sha256' is not that of 'references.{evaluation.extractor}'"
        if self.provenance.reference_images != own.count:
            yield f"'provenance.reference_images' is not the 'count' of 'references.{evaluation.extractor}'"
        for name in evaluation.wanted():
            begins = f"{METRICS[name].definition}, of {evaluation.samples:,} generated images"
            if not self.definitions.get(name, "").startswith(begins):
                yield f"'definitions.{name}' is not '{begins} ...'"
        for where, snapshot in self.snapshots().items():
            yield from snapshot.problems(where, evaluation.samples, blocks)
        for images, snapshot in self.also_at.items():
            if images != str(snapshot.images):
                yield f"'also_at.{images}.images' is {snapshot.images}"
        yield from self._problems_of_curve()

    def _problems_of_curve(self) -> Iterator[str]:
        counts = [point.get("images", math.nan) for point in self.curve]
        if counts != sorted(set(counts)):
            yield "'curve' is not one point for each 'images', in order"
        points = {point.get("images"): point for point in self.curve}
        for where, snapshot in self.snapshots().items():
            point = points.get(snapshot.images, {})
            for name in point.keys() - {"images"}:
                if point[name] != snapshot.blocks[0].get(name):
                    yield f"'curve' and '{where}.blocks.0' differ in '{name}' at {snapshot.images} images"
        lowest = min((point["fid"] for point in self.curve if "fid" in point), default=math.inf)
        if self.best and self.best.blocks[0].get("fid", -math.inf) > lowest:
            yield "'best' is not the snapshot with the lowest 'fid' in 'curve'"


class Parameters(Part):
    total: NotNegative
    trainable: NotNegative
    frozen: NotNegative


class RunFile(Part):
    recipe: dict[str, Any]
    inputs: dict[str, str]
    parameters: Parameters
    frozen: tuple[str, ...]
    images: NotNegative
    seconds: Annotated[float, Field(ge=0)]
    peak_memory_mib: Annotated[float, Field(ge=0)]
    sessions: tuple[dict[str, Any], ...]
    snapshots: dict[str, str] = {}  # by name; not in runs of earlier versions
