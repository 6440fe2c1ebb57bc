"""What `gdd probe` measured on a card: `results/probe/<card>.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gdd import paths
from gdd.config.record import NotNegative, Positive, Record, parse
from gdd.errors import UserError
from gdd.files import read_json

Products = Literal["float32", "tf32"]


class ProbedSetting(Record):
    """What one card, or one core, gets done of a setting in a second, and how that was found."""

    provenance: dict[str, Any]
    training: dict[Products, dict[str, Positive]]  # images, by how many go through the networks at once
    generating: Positive  # images
    evaluating: Positive  # images
    cuda_graphs: tuple[Products, ...] = ()  # the products with which these are worth it
    speeds: tuple[dict[str, Any], ...]  # of every step that was timed
    errors: dict[str, Any]  # by precision: ours and plain eager's

    def training_rate(self, share: int | None, *, tf32: bool) -> float | None:
        """Return the images a second of a process that has `share` of a batch, or as many as fit."""
        by_count = {int(count): rate for count, rate in self._of(tf32).items()}
        if not by_count:
            return None
        fitting = [count for count in by_count if share is None or count <= share]
        return by_count[max(fitting) if fitting else min(by_count)]

    def at_once(self, *, tf32: bool) -> int:
        """Return the most images at once that were seen to fit."""
        return max(map(int, self._of(tf32)), default=0)

    def graphs_pay(self, *, tf32: bool) -> bool:
        """Return whether a step in CUDA graphs was seen to be faster."""
        return ("tf32" if tf32 else "float32") in self.cuda_graphs

    def _of(self, tf32: bool) -> Mapping[str, float]:
        return self.training.get("tf32" if tf32 else "float32", {})


class Probe(Record):
    """What was measured on a card, by setting."""

    card: str
    gb: NotNegative  # 0 is no GPU
    settings: dict[str, ProbedSetting]

    def of(self, setting: str, like: str | None) -> ProbedSetting | None:
        """Return what is known of a setting, or of the one it is like."""
        return self.settings.get(setting) or self.settings.get(like or "")


def probe_file(card: str) -> Path:
    return paths.RESULTS / "probe" / f"{card}.json"


def read_probe(card: str) -> Probe | None:
    """Return what was measured on a card, by its file's name; None where nothing was.

    Raises:
        UserError: the file is damaged, or of another version.
    """
    path = probe_file(card)
    if not path.is_file():
        return None
    try:
        return parse(Probe, read_json(path), path)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}; delete it and run `gdd probe` again.") from None


def known_probe(card: int | str | None) -> Probe | None:
    """Return what was measured, if anything, on a card by its name or its memory, or on the newest one."""
    name = card if isinstance(card, str) else newest_card(card)
    return read_probe(name) if name else None


def probe_of(card: int | str | None) -> Probe | None:
    """Return what was measured on the card of local.yaml.

    Raises:
        UserError: local.yaml names a card that was not probed.
    """
    probe = known_probe(card)
    if probe is None and isinstance(card, str):
        raise UserError(
            f"local.yaml: 'card' is {card}, but there is no {probe_file(card)}; run `gdd probe` on a machine "
            "that has this card, or give its memory in GB."
        )
    return probe


def newest_card(gb: int | None = None) -> str | None:
    """Return the GPU that was probed last, of those with so much memory if that is given."""
    files = sorted(probe_file("*").parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(files):
        probe = read_probe(path.stem)
        if probe and probe.gb and gb in (None, probe.gb):
            return path.stem
    return None
