"""Pixels and small classifiers, by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdd import files
from gdd.data.image_array import quantise
from gdd.errors import UserError
from gdd.metrics.extractors import ClassifierExtractor, PixelExtractor, open_extractor
from gdd.networks.classifier import SmallClassifier, save_classifier
from gdd.randomness import seeded_weights

SHAPE = (1, 8, 8)


def some_images(count: int, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 8, 8, channels), dtype=torch.uint8, generator=generator)


def classifier() -> SmallClassifier:
    with seeded_weights(0):
        return SmallClassifier("residual", 4, 1, 10, 8).eval()


def saved_classifier(path: Path, **description: object) -> Path:
    save_classifier(path, classifier(), **description)
    return path


def test_pixels_keep_row_column_channel_order() -> None:
    extractor = PixelExtractor((3, 8, 8))
    images = some_images(2, channels=3)
    features = extractor(images)
    assert features.shape == (2, extractor.dimension) == (2, 192)
    assert features[1, 3 * (8 * 2 + 5) + 1] == images[1, 2, 5, 1].float() / 127.5 - 1
    assert torch.equal(quantise(features.reshape(2, 8, 8, 3).permute(0, 3, 1, 2)), images)
    # A changed definition makes every stored reference stale; this number must change with it.
    assert extractor.sha256.startswith("fe500d6f91fc6ad5")


def test_classifier_features_are_scaled_and_named(tmp_path: Path) -> None:
    one = ClassifierExtractor(saved_classifier(tmp_path / "one.safetensors", feature_scale=1.0), SHAPE)
    three = ClassifierExtractor(saved_classifier(tmp_path / "three.safetensors", feature_scale=3), SHAPE)
    images = some_images(9)
    features = one(images)
    assert (features.shape, features.dtype) == ((9, one.dimension), torch.float64)
    assert not features.requires_grad
    torch.testing.assert_close(three(images), 3 * features, rtol=1e-14, atol=0)
    direct = classifier().features(images.permute(0, 3, 1, 2) / 127.5 - 1)
    torch.testing.assert_close(features.float(), direct, rtol=1e-4, atol=1e-5)
    assert one.sha256 == files.sha256(tmp_path / "one.safetensors") != three.sha256
    assert "times 3 " in three.definition
    singly = torch.cat([one(image[None]) for image in images])
    torch.testing.assert_close(features, singly, rtol=1e-12, atol=1e-13)  # whatever the batch


@pytest.mark.parametrize(
    ("scale", "shape", "sentence"),
    [
        (None, SHAPE, "has the feature_scale 'None' instead of a positive number"),
        (-1.0, SHAPE, "has the feature_scale '-1.0'"),
        ("big", SHAPE, "has the feature_scale 'big'"),
        (1.0, (3, 8, 8), r"takes images of \(1, 8, 8\) \(channels, height, width\), not of \(3, 8, 8\)"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(
    tmp_path: Path, scale: object, shape: tuple[int, int, int], sentence: str
) -> None:
    path = saved_classifier(
        tmp_path / "net.safetensors", **({} if scale is None else {"feature_scale": scale})
    )
    with pytest.raises(UserError, match=sentence):
        open_extractor("any", path, shape)
    with pytest.raises(UserError, match="needs the file of its weights"):
        open_extractor("inception", None, shape)
