"""A data set from the image files a user has: a folder, a .zip or a .tar, EDM's own ZIP among them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from gdd.config.records import Dataset
from gdd.data.conversion import convert
from gdd.data.image_array import ImageArray, describe, part_indices, write_blocks
from gdd.data.listing import LABEL_FILE, Listing, list_images
from gdd.errors import UserError
from gdd.files import locked

NAMED = 20  # names that a sentence lists before it only counts


def prepare_folder(
    folder: Path, name: str, dataset: Dataset, raw: Path, *, workers: int = 1, allow_corrupt: int = 0
) -> ImageArray:
    """Write the images in `raw` as an image array; killed at any time, the same call goes on where it was.

    Raises:
        UserError: `raw` holds another number of images or classes, or too many that are unusable.
    """
    listing = list_images(raw)
    _check_count(listing, dataset.source_images or dataset.images, raw)
    labels, classes = labels_of(listing, dataset.classes)
    chosen = part_indices(len(listing), dataset.part)
    if len(chosen) != dataset.images:
        raise UserError(
            f"The part '{name}' of {raw} would be {len(chosen):,} images, not {dataset.images:,}."
        )
    # EDM's archives are prepared already: an image of another size there is a wrong archive, not a large one.
    prepared = listing.label_file is not None
    transform = None if prepared else dataset.transform
    source_kind = "EDM archive" if prepared else listing.kind
    facts = {"classes": classes, "source": str(raw), "source_kind": source_kind, "transform": transform}
    description = describe(name, dataset, **facts)
    size, parts = dataset.resolution, folder / "parts"
    try:
        with locked(parts / ".lock", wait=False):
            files, skipped = convert(listing.only(chosen), transform, size, parts, workers)
            if len(skipped) > allow_corrupt:
                raise UserError(_refusal(raw, skipped, allow_corrupt))
            if skipped:
                description["skipped"] = dict(sorted(skipped.items()))
            kept = chosen[[listing.names[index] not in skipped for index in chosen]]
            blocks = (file.read_bytes() for file in files)
            array = write_blocks(folder, blocks, (size, size, 3), labels[kept], description)
            shutil.rmtree(parts)
    except TimeoutError:
        raise UserError(f"{folder} is being written by another process; let it end first.") from None
    return array


def labels_of(listing: Listing, classes: int) -> tuple[np.ndarray, list[str]]:
    """Return the labels `[N]` int64 of the listed images and the names of the classes.

    With 0 classes there is nothing to read: the labels are 0 and no class has a name. Otherwise the top
    folders, sorted, are the classes, unless a dataset.json gives the labels; it knows no names but numbers.

    Raises:
        UserError: there are other classes than `classes`, or an image has no label.
    """
    if classes == 0:
        return np.zeros(len(listing), np.int64), []
    if listing.label_file is not None:
        given = _read_labels(listing)
        if without := [name for name in listing.names if name not in given]:
            raise UserError(f"{LABEL_FILE} in {listing.path} gives no label for {_named(without)}.")
        labels = [given[name] for name in listing.names]
        if min(labels) < 0 or max(labels) >= classes:
            raise UserError(
                f"{LABEL_FILE} in {listing.path} gives labels from {min(labels)} to {max(labels)}, but the "
                f"data set has {classes} classes; check that it is the right archive."
            )
        return np.array(labels, np.int64), [str(label) for label in range(classes)]
    tops = [_top(name) for name in listing.names]
    names = sorted(set(tops))
    if len(names) != classes or "" in names:
        loose = f" and {tops.count(''):,} images outside of them" if "" in names else ""
        raise UserError(
            f"{listing.path} holds {len(set(names) - {''}):,} folders of images{loose}, not one for each of "
            f"{classes:,} classes; give the folder that lies right above these (in an archive too: A.zip/F)."
        )
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[top] for top in tops], np.int64), names


def _read_labels(listing: Listing) -> dict[str, int]:
    """Read EDM's `{"labels": [["00000/img00000000.png", 6], ...]}`; null stands for no labels at all."""
    try:
        content: Any = json.loads(listing.label_file or b'{"labels": null}')
        labels = dict(content["labels"] or [])
    except (ValueError, TypeError, KeyError, RecursionError):
        labels = {"": None}
    if not all(isinstance(name, str) and type(label) is int for name, label in labels.items()):
        raise UserError(
            f'{LABEL_FILE} in {listing.path} is not of the form {{"labels": [["a/b.png", 6], ...]}} '
            "with a whole number for each image."
        )
    return labels


def _check_count(listing: Listing, expected: int, raw: Path) -> None:
    if len(listing) == expected:
        return
    hint = "check that it is complete and nothing else"
    tops = Counter(_top(name) for name in listing.names if _top(name))
    if missing := sorted(_read_labels(listing).keys() - set(listing.names)):
        hint = f"missing are {_named(missing)}"
    elif tops:
        smallest = sorted(tops, key=lambda name: (tops[name], name))[:5]
        counts = ", ".join(f"{name} with {tops[name]:,}" for name in smallest)
        hint = f"of its {len(tops):,} folders the smallest are {counts}"
    raise UserError(f"{raw} holds {len(listing):,} images, not {expected:,}; {hint}.")


def _top(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""


def _named(names: list[str]) -> str:
    """Return the first names and how many more there are, for a sentence."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{len(names):,} file{'s'[: len(names) != 1]}: {', '.join(names[:NAMED])}{more}"


def _refusal(source: Path, unusable: dict[str, str], allowed: int) -> str:
    shown = sorted(unusable)[:NAMED]
    reasons = "; ".join(f"{name} {unusable[name]}" for name in shown)
    more = f"; and {len(unusable) - NAMED:,} more" if len(unusable) > NAMED else ""
    most = f", of which {allowed:,} may be skipped" if allowed else ""
    return (
        f"{source} holds {len(unusable):,} unusable image{'s'[: len(unusable) != 1]}{most}: {reasons}{more}. "
        "Mend them and run the same command again, which reads only what is missing, or skip them with "
        f"--allow-corrupt {len(unusable)}."
    )
