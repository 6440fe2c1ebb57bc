"""A data set from the image files a user has: a folder, a .zip or a .tar, EDM's own ZIP among them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from gdd.config.records import Dataset
from gdd.data.conversion import Conversion
from gdd.data.image_array import ImageArray, adopt, keep_rows, part_indices
from gdd.data.labels import labels_of, named, unlisted
from gdd.data.listing import Listing, list_images
from gdd.errors import UserError

NAMED_FOLDERS = 20  # of which a sentence gives the counts


def prepare_folder(
    folder: Path, name: str, dataset: Dataset, raw: Path, *, workers: int = 1, allow_corrupt: int = 0
) -> ImageArray:
    """Write the images in `raw` as an image array; killed at any time, the same call goes on where it was.

    Args:
        folder: receives the array.
        name: what the data set is called.
        dataset: what it must turn out to be.
        raw: a folder, .zip or .tar, or a folder inside an archive.
        workers: processes that convert images.
        allow_corrupt: unusable images that may be left out; they are listed in dataset.json.

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
    transform = None if listing.label_file is not None else dataset.transform
    conversion = Conversion(listing, chosen, transform, dataset.resolution)
    with conversion.unfinished(folder) as target:
        skipped = conversion.run(target, workers, allow_corrupt)
        kept = np.array([listing.names[index] not in skipped for index in chosen])
        if skipped:
            keep_rows(target.part, kept)
        description: dict[str, Any] = {
            "name": name,
            "title": dataset.title,
            "classes": classes,
            "source": str(raw),
            "source_kind": "EDM archive" if listing.label_file else listing.kind,
            "transform": transform,
            "licence": dataset.licence,
        }
        if dataset.part:
            description["part"] = dataset.part.model_dump(mode="json")
        if skipped:
            description["skipped"] = dict(sorted(skipped.items()))
        array = adopt(folder, target.part, labels[chosen][kept], description)
        target.remove_journal()
    return array


def _check_count(listing: Listing, expected: int, raw: Path) -> None:
    if len(listing) == expected:
        return
    missing = unlisted(listing) or _gaps(listing.names, expected)
    if missing:
        hint = f"missing are {named(missing)}"
    else:
        tops = Counter(name.partition("/")[0] for name in listing.names if "/" in name)
        if not tops:
            hint = "check that it is complete and nothing else"
        elif len(tops) <= NAMED_FOLDERS:
            hint = f"its folders: {_counts(sorted(tops.items()))}"
        else:
            smallest = sorted(tops.items(), key=lambda item: (item[1], item[0]))[:5]
            hint = f"of its {len(tops):,} folders the smallest are {_counts(smallest)}"
    raise UserError(f"{raw} holds {len(listing):,} images, not {expected:,}; {hint}.")


def _counts(folders: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name} with {count:,}" for name, count in folders)


def _gaps(names: list[str], expected: int) -> list[str]:
    """Return the files missing where all are numbered from 0, as FFHQ's 00000/00000.png and so on."""
    numbered = [re.fullmatch(r"(?:.*/)?(\D*)(\d+)(\.\w+)", name) for name in names]
    if not all(numbered) or not names:
        return []
    kinds = {(match[1], len(match[2]), match[3]) for match in numbered if match}
    numbers = {int(match[2]) for match in numbered if match}
    if len(kinds) > 1 or len(numbers) < len(names) or max(numbers) >= expected:
        return []
    ((prefix, width, ending),) = kinds
    return [f"{prefix}{number:0{width}d}{ending}" for number in sorted(set(range(expected)) - numbers)]
