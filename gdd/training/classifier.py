"""Training a small classifier, and making the features of an untrained one usable."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from gdd.data.image_array import to_signed
from gdd.errors import UserError
from gdd.networks.classifier import SmallClassifier
from gdd.randomness import stream

EVALUATION_BATCH = 1000


def train_classifier(
    net: SmallClassifier,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
) -> dict[str, float]:
    """Train with Adam, linear decay of the learning rate to zero and shifts by up to one pixel.

    Everything random comes from `seed`, so the same call gives the same bits on the same machine. The network
    ends in eval mode.

    Args:
        net: changed in place.
        images: [N, H, W, C] uint8.
        labels: [N] class indices.
        steps: number of updates.
        batch: images per update, drawn with replacement.
        lr: the learning rate at the start.
        seed: of the batches and shifts.

    Returns:
        `loss` (mean cross entropy, nats) and `accuracy` (0 to 1) over all the images, as they are.

    Raises:
        UserError: images and labels do not fit each other or the network.
    """
    data, targets = _image_tensor(net, images), _label_tensor(net, labels, len(images))
    pick = stream(seed, "classifier batches", 0)
    shift = stream(seed, "classifier shifts", 0)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    net.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        chosen = torch.randint(len(data), (batch,), generator=pick)
        loss = functional.cross_entropy(net(_shifted(data[chosen], shift)), targets[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    net.eval()
    return _evaluate(net, data, targets)


@torch.no_grad()
def calibrate_batch_norm(
    net: SmallClassifier, images: NDArray[np.uint8], *, batch: int = EVALUATION_BATCH
) -> None:
    """Set every batch norm's running statistics to those of the images, without touching any weight.

    An untrained network in eval mode would use mean 0 and variance 1, and its features would shrink with
    depth; after this every normalised channel has mean 0 and variance 1 over the images. The network ends in
    eval mode.

    Args:
        net: changed in place.
        images: [N, H, W, C] uint8.
        batch: images per forward pass; the statistics are averaged over the passes.

    Raises:
        UserError: the images do not fit the network.
    """
    data = _image_tensor(net, images)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the passes
    net.train()
    # Chunks of nearly equal size, because each counts the same in that average.
    for part in data.tensor_split(-(-len(data) // batch)):
        net(part)
    net.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each of the images [B, C, H, W] by -1, 0 or 1 pixel along both axes, repeating the border."""
    count, _, height, width = images.shape
    offsets = torch.randint(3, (2, count, 1), generator=generator)
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = (offsets[0] + torch.arange(height))[:, :, None]
    columns = (offsets[1] + torch.arange(width))[:, None, :]
    image = torch.arange(count)[:, None, None]
    return padded[image, :, rows, columns].permute(0, 3, 1, 2)


@torch.no_grad()
def _evaluate(net: SmallClassifier, data: Tensor, targets: Tensor) -> dict[str, float]:
    logits = torch.cat([net(part) for part in data.split(EVALUATION_BATCH)])
    return {
        "loss": functional.cross_entropy(logits, targets).item(),
        "accuracy": (logits.argmax(1) == targets).double().mean().item(),
    }


def _image_tensor(net: SmallClassifier, images: NDArray[np.uint8]) -> Tensor:
    expected = (net.img_resolution, net.img_resolution, net.img_channels)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected or len(images) == 0:
        raise UserError(
            f"The classifier takes uint8 images of shape (N, {', '.join(map(str, expected))}); "
            f"got {images.dtype} of shape {images.shape}."
        )
    return to_signed(images)


def _label_tensor(net: SmallClassifier, labels: NDArray[np.integer], count: int) -> Tensor:
    if labels.shape != (count,) or labels.min() < 0 or labels.max() >= net.classes:
        raise UserError(
            f"The classifier needs {count} class indices from 0 to {net.classes - 1}, one an image; "
            f"got labels of shape {labels.shape}."
        )
    return torch.from_numpy(np.asarray(labels, dtype=np.int64))
