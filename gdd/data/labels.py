"""Which class an image belongs to: EDM's dataset.json says it, or the folder the image lies in."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from gdd.data.listing import LABEL_FILE, Listing
from gdd.errors import UserError

NAMED = 20  # names that a sentence lists before it only counts


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
        labels = _from_label_file(listing)
        one_for_all = classes > 1 and len(set(labels)) == 1
        if min(labels) < 0 or max(labels) >= classes or one_for_all:
            raise UserError(
                f"{LABEL_FILE} in {listing.path} gives labels from {min(labels)} to {max(labels)}, "
                f"{len(set(labels)):,} different ones, but the data set has {classes} classes; check that it "
                "is the right archive."
            )
        return np.array(labels, np.int64), [str(label) for label in range(classes)]
    tops = [name.partition("/")[0] if "/" in name else "" for name in listing.names]
    names = sorted(set(tops))
    if len(names) != classes or "" in names:
        loose = f" and {tops.count(''):,} images outside of them" if "" in names else ""
        raise UserError(
            f"{listing.path} holds {len(set(names) - {''}):,} folders of images{loose}, not one for each of "
            f"{classes:,} classes; give the folder that lies right above these (in an archive too: A.zip/F)."
        )
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[top] for top in tops], np.int64), names


def unlisted(listing: Listing) -> list[str]:
    """Return the images that EDM's dataset.json names and the source does not hold."""
    named = _label_pairs(listing) if listing.label_file is not None else {}
    return sorted(named.keys() - set(listing.names))


def _from_label_file(listing: Listing) -> list[int]:
    labels = _label_pairs(listing)
    without = [name for name in listing.names if name not in labels]
    if without:
        raise UserError(f"{LABEL_FILE} in {listing.path} gives no label for {named(without)}.")
    return [labels[name] for name in listing.names]


def _label_pairs(listing: Listing) -> dict[str, int]:
    """Read `{"labels": [["00000/img00000000.png", 6], ...]}`; null stands for no labels at all."""
    try:
        content: Any = json.loads(listing.label_file or b"{}")
        pairs = content["labels"] or []
        labels = {name: label for name, label in pairs}  # noqa: C416  # anything but pairs is an error
    except (ValueError, TypeError, KeyError, RecursionError):
        labels = {"": None}
    if not all(isinstance(name, str) and type(label) is int for name, label in labels.items()):
        raise UserError(
            f'{LABEL_FILE} in {listing.path} is not of the form {{"labels": [["a/b.png", 6], ...]}} '
            "with a whole number for each image."
        )
    return labels


def named(names: list[str]) -> str:
    """Return the first names and how many more there are, for a sentence."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{len(names):,} file{'s'[: len(names) != 1]}: {', '.join(names[:NAMED])}{more}"
