"""From a data set's record to its image array."""

from __future__ import annotations

from pathlib import Path

from gdd.config.records import Dataset
from gdd.data.digits import prepare_digits
from gdd.data.image_array import ImageArray
from gdd.errors import UserError


def prepare(folder: Path, name: str, dataset: Dataset) -> ImageArray:
    """Make the image array of `dataset` in `folder`.

    Raises:
        UserError: the source does not hold what the record promises.
    """
    array = prepare_digits(folder, name, dataset)
    found = (len(array), array.shape)
    expected = (dataset.images, (dataset.channels, dataset.resolution, dataset.resolution))
    if found != expected:
        (folder / "dataset.json").unlink()
        raise UserError(
            f"The data set '{name}' came out as {found[0]} images of shape {found[1]}, "
            f"not {expected[0]} of {expected[1]}; check its source."
        )
    return array
