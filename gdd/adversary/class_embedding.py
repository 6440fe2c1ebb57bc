"""What a class-conditional discriminator's class embeddings start from (StyleGAN-XL, arXiv:2202.00273)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from gdd.errors import UserError
from gdd.foreign.read import read_foreign

SOURCE = "stylegan-xl-class-embeddings"
SHAPE = (1000, 320)  # ImageNet's classes, and the features of EfficientNet-lite0


def load_class_embedding(path: str | Path, label_dim: int) -> Tensor:
    """Return the first `label_dim` rows of StyleGAN-XL's table, [label_dim, 320] in float32.

    Row k is the mean of EfficientNet-lite0's last features over ImageNet's class k. For another data set the
    rows mean nothing, but GDD's release starts from them there too (CIFAR-10: the first ten).

    Raises:
        UserError: the file is missing, damaged or something else, or has fewer rows than there are classes.
    """
    if not Path(path).is_file():
        raise UserError(f"The class embeddings {path} do not exist; run `gdd fetch {SOURCE}`.")
    table = read_foreign(path, "network", "embed")[1].get("weight")
    if table is None or table.shape != SHAPE or not table.is_floating_point() or not table.isfinite().all():
        raise UserError(f"{path} holds no table of {SHAPE} finite numbers under 'embed'; fetch it again.")
    if label_dim > len(table):
        raise UserError(
            f"The class embeddings {path} have {len(table)} rows, but there are {label_dim} classes; "
            "start from random ones instead."
        )
    return table[:label_dim].float().clone()
