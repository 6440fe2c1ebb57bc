"""Making the small frozen networks that the discriminator looks through and that judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gdd.config.records import FeatureNetwork
from gdd.data.image_array import ImageArray, to_signed
from gdd.networks.classifier import SmallClassifier, save_classifier
from gdd.networks.seeded import derived_seed, seeded_weights
from gdd.training.classifier import calibrate_batch_norm, train_classifier


def make_feature_network(path: str | Path, record: FeatureNetwork, data: ImageArray) -> dict[str, float]:
    """Train a small classifier on `data`, or calibrate a random one, and write it to `path`.

    Returns the training's loss and accuracy (nothing for a random network) and `feature_scale`, the constant
    that makes the mean standard deviation of its penultimate features 1 on `data`.
    """
    channels, resolution, _ = data.shape
    classes = int(data.labels.max()) + 1
    with seeded_weights(derived_seed(record.seed, "feature network")):
        net = SmallClassifier(record.architecture, record.width, channels, classes, resolution)
    images = np.asarray(data.images)
    outcome: dict[str, float] = {}
    if record.steps:
        outcome = train_classifier(
            net,
            images,
            data.labels,
            steps=record.steps,
            batch=record.batch,
            lr=record.lr,
            seed=record.seed,
        )
    else:
        calibrate_batch_norm(net, images)
    net.eval()
    with torch.no_grad():
        spread = net.features(to_signed(images)).double().std(dim=0).mean()
    outcome["feature_scale"] = float(1 / spread)
    save_classifier(
        path,
        net,
        record=record.model_dump(mode="json", exclude={"title"}),
        data_sha256=data.sha256,
        **outcome,
    )
    return outcome
