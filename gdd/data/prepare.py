"""From a data set's record and the user's raw data to its image array."""

from __future__ import annotations

import zipfile
from pathlib import Path

from gdd.config.records import Dataset
from gdd.data.cifar10 import prepare_cifar10
from gdd.data.digits import prepare_digits
from gdd.data.expected import archives_above, what_is_expected
from gdd.data.folder import prepare_folder
from gdd.data.image_array import ImageArray
from gdd.data.listing import LABEL_FILE
from gdd.errors import UserError


def prepare(
    folder: Path,
    name: str,
    dataset: Dataset,
    raw: Path | None = None,
    *,
    workers: int = 1,
    allow_corrupt: int = 0,
) -> ImageArray:
    """Make the image array of `dataset` in `folder`.

    Args:
        folder: receives images.npy, labels.npy and, last, dataset.json.
        name: what the data set is called.
        dataset: what it must turn out to be.
        raw: where its raw data lies; None for the digits, which are part of scikit-learn.
        workers: processes that convert images.
        allow_corrupt: unusable images that may be left out.

    Raises:
        UserError: there is no raw data, or it does not hold what the record promises.
    """
    if dataset.source == "digits":
        if raw is not None:
            raise UserError(f"The data set '{name}' is part of scikit-learn: it takes no raw data ({raw}).")
        return _checked(folder, name, dataset, prepare_digits(folder, name, dataset))
    if raw is None or not any(path.exists() for path in [raw, *archives_above(raw)]):
        where = f"at {raw}, which does not exist" if raw else "at a path you give"
        raise UserError(
            f"The raw data of '{name}' is expected {where}: {what_is_expected(dataset)}. "
            f"Set raw_data.{name} in config/local.yaml, or --raw."
        )
    if dataset.source == "cifar10" and not _is_edm_format(raw):
        return _checked(folder, name, dataset, prepare_cifar10(folder, name, dataset, raw))
    return prepare_folder(folder, name, dataset, raw, workers=workers, allow_corrupt=allow_corrupt)


def _is_edm_format(raw: Path) -> bool:
    zipped = any(zipfile.is_zipfile(path) for path in [raw, *raw.parents] if path.is_file())
    return zipped or (raw / LABEL_FILE).is_file()


def _checked(folder: Path, name: str, dataset: Dataset, array: ImageArray) -> ImageArray:
    found = (len(array), array.shape)
    expected = (dataset.images, (dataset.channels, dataset.resolution, dataset.resolution))
    if found != expected:
        (folder / "dataset.json").unlink()
        raise UserError(
            f"The data set '{name}' came out as {found[0]} images of shape {found[1]}, "
            f"not {expected[0]} of {expected[1]}; check its source."
        )
    return array
