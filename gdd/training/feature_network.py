"""Small frozen networks that a discriminator looks through, or that evaluate, where none are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gdd.config.records import FeatureNetwork
from gdd.data.image_array import ImageArray, to_signed
from gdd.networks.classifier import SmallClassifier, save_classifier
from gdd.randomness import derived_seed, seeded_weights, stream

BATCH = 1000  # images without gradients


def make_feature_network(path: str | Path, record: FeatureNetwork, data: ImageArray) -> dict[str, float]:
    """Train a small classifier on `data`, or calibrate a random one, and write it to `path`.

    Returns the training's loss and accuracy (nothing for a random network) and `feature_scale`, the constant
    that makes the mean standard deviation of its penultimate features 1 on `data`.
    """
    channels, resolution, _ = data.shape
    classes = int(data.labels.max()) + 1
    with seeded_weights(derived_seed(record.seed, "feature network")):
        net = SmallClassifier(record.architecture, record.width, channels, classes, resolution)
    images = to_signed(np.asarray(data.images))
    outcome: dict[str, float] = {}
    if record.steps:
        labels = torch.from_numpy(np.asarray(data.labels, dtype=np.int64))
        outcome = train_classifier(net, images, labels, record)
    else:
        calibrate_batch_norm(net, images)
    with torch.no_grad():
        deviation = net.features(images).double().std(dim=0).mean()
    outcome["feature_scale"] = float(1 / deviation)
    described = record.model_dump(mode="json", exclude={"title"})
    save_classifier(path, net, record=described, data_sha256=data.sha256, **outcome)
    return outcome


def train_classifier(
    net: SmallClassifier, images: Tensor, labels: Tensor, record: FeatureNetwork
) -> dict[str, float]:
    """Train on images [N, C, H, W] in [-1, 1], shifted by up to one pixel, and their classes [N].

    Adam's learning rate falls linearly to zero. Everything random comes from `record.seed`. The network ends
    in eval mode. Returns `loss` (mean cross entropy, nats) and `accuracy` (0 to 1) over all the images, as
    they are.
    """
    pick = stream(record.seed, "classifier batches", 0)
    shift = stream(record.seed, "classifier shifts", 0)
    optimizer = torch.optim.Adam(net.parameters(), lr=record.lr, fused=True)
    net.train()
    for step in range(record.steps):
        optimizer.param_groups[0]["lr"] = record.lr * (1 - step / record.steps)
        chosen = torch.randint(len(images), (record.batch,), generator=pick)
        loss = functional.cross_entropy(net(_shifted(images[chosen], shift)), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        logits = torch.cat([net(part) for part in images.split(BATCH)])
    return {
        "loss": functional.cross_entropy(logits, labels).item(),
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
    }


@torch.no_grad()
def calibrate_batch_norm(net: SmallClassifier, images: Tensor) -> None:
    """Set every batch norm's running statistics to those of the images [N, C, H, W], and no weight.

    An untrained network in eval mode would use mean 0 and variance 1, and its features would shrink with
    depth; after this every normalised channel has mean 0 and variance 1 over the images. The network ends in
    eval mode.
    """
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain average over the passes
    net.train()
    # Chunks of nearly equal size, because each counts the same in that average.
    for part in images.tensor_split(-(-len(images) // BATCH)):
        net(part)
    net.eval()


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each of the images [B, C, H, W] by -1, 0 or 1 pixel along both axes, repeating the border."""
    count, _, height, width = images.shape
    offsets = torch.randint(3, (2, count, 1), generator=generator)
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = (offsets[0] + torch.arange(height))[:, :, None]
    columns = (offsets[1] + torch.arange(width))[:, None, :]
    image = torch.arange(count)[:, None, None]
    return padded[image, :, rows, columns].permute(0, 3, 1, 2)
