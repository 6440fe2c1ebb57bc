from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdd import files
from gdd.data.quantise import quantise
from gdd.errors import UserError
from gdd.metrics.extractors import ClassifierExtractor, PixelExtractor
from gdd.networks.classifier import SmallClassifier, save_classifier
from gdd.networks.seeded import seeded_weights


def some_images(count: int, resolution: int = 8, channels: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, resolution, resolution, channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def classifier(seed: int = 0) -> SmallClassifier:
    with seeded_weights(seed):
        return SmallClassifier("residual", 4, 1, 10, 8).eval()


def saved_classifier(path: Path, seed: int = 0, **description: object) -> Path:
    save_classifier(path, classifier(seed), **description)
    return path


def test_pixels_keep_row_column_channel_order() -> None:
    extractor = PixelExtractor(8, 3)
    images = some_images(2, channels=3)
    features = extractor(images)
    assert features.shape == (2, extractor.dimension) == (2, 192)
    assert features[1, 3 * (8 * 2 + 5) + 1] == images[1, 2, 5, 1].float() / 127.5 - 1
    assert extractor(
        torch.tensor([0, 255] * 96, dtype=torch.uint8).reshape(1, 8, 8, 3)
    ).unique().tolist() == [-1, 1]
    back = features.reshape(2, 8, 8, 3).permute(0, 3, 1, 2)
    assert torch.equal(quantise(back), images)


def test_pixel_definition_has_a_stable_hash() -> None:
    assert PixelExtractor(8, 1).sha256 == PixelExtractor(32, 3).sha256
    # A changed definition makes every stored reference stale; this number must change with it.
    assert PixelExtractor(8, 1).sha256.startswith("fe500d6f91fc6ad5")


def test_classifier_features_are_scaled_and_named(tmp_path: Path) -> None:
    one = ClassifierExtractor(saved_classifier(tmp_path / "one.safetensors", feature_scale=1.0))
    three = ClassifierExtractor(saved_classifier(tmp_path / "three.safetensors", feature_scale=3))
    images = some_images(5)
    features = one(images)
    assert features.shape == (5, one.dimension)
    assert features.dtype == torch.float64
    assert not features.requires_grad
    torch.testing.assert_close(three(images), 3 * features, rtol=1e-14, atol=0)
    net = classifier()
    direct = net.features(images.permute(0, 3, 1, 2) / 127.5 - 1)
    torch.testing.assert_close(features.float(), direct, rtol=1e-4, atol=1e-5)
    assert one.sha256 == files.sha256(tmp_path / "one.safetensors") != three.sha256
    assert "times 3 " in three.definition


def test_classifier_features_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    extractor = ClassifierExtractor(saved_classifier(tmp_path / "net.safetensors", feature_scale=1.0))
    images = some_images(9)
    singly = torch.cat([extractor(image[None]) for image in images])
    torch.testing.assert_close(extractor(images), singly, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("scale", [None, 0.0, -1.0, "big"])
def test_a_classifier_without_a_usable_scale_is_refused(tmp_path: Path, scale: object) -> None:
    description = {} if scale is None else {"feature_scale": scale}
    path = saved_classifier(tmp_path / "net.safetensors", **description)
    with pytest.raises(UserError, match="feature_scale"):
        ClassifierExtractor(path)


def test_wrong_images_are_refused(tmp_path: Path) -> None:
    classifier = ClassifierExtractor(saved_classifier(tmp_path / "net.safetensors", feature_scale=1.0))
    for extractor in (PixelExtractor(8, 1), classifier):
        with pytest.raises(UserError, match=r"\(16, 16, 1\).*\(8, 8, 1\)"):
            extractor(some_images(2, resolution=16))
        with pytest.raises(ValueError, match="uint8"):
            extractor(torch.zeros(2, 8, 8, 1))
