from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from inception_stand_in import StandIn, save_script, some_images
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from gdd import files
from gdd.errors import UserError
from gdd.metrics import inception
from gdd.metrics.by_name import make_extractor
from gdd.metrics.evaluation import evaluate_block
from gdd.metrics.extractors import ClassifierExtractor, PixelExtractor, ProbabilityExtractor
from gdd.metrics.inception import InceptionExtractor
from gdd.metrics.reference import build_reference
from gdd.networks.classifier import SmallClassifier, save_classifier
from gdd.networks.seeded import seeded_weights


class Flat(StandIn):
    """Probabilities that are not those of the output layer."""

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        features = img.to(torch.float32).mean((2, 3)) / 255
        return features if return_features else torch.softmax(100 * features, dim=1)


class NoFlags(nn.Module):
    def forward(self, img: Tensor) -> Tensor:
        return img.to(torch.float32).mean((2, 3))


class NoOutput(nn.Module):
    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        return img.to(torch.float32).mean((2, 3))


class Fails(StandIn):
    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        raise RuntimeError("no such image")
        return img


class NotFinite(StandIn):
    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        features = img.to(torch.float32).mean((2, 3)) / 0
        return features if return_features else F.linear(features, self.output.weight).softmax(dim=1)


def stand_in(path: Path, channels: int = 2, pool: int = 2, classes: int = 11) -> Path:
    with seeded_weights(0):
        return save_script(StandIn(channels, pool, classes), path)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in(tmp_path_factory.mktemp("net") / "net.pt")


@pytest.fixture(scope="module")
def extractor(network: Path) -> InceptionExtractor:
    return InceptionExtractor(network)


def direct(network: Path, images: Tensor, **flags: bool) -> Tensor:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        net: Any = torch.jit.load(network)
        result: Tensor = net(images.permute(0, 3, 1, 2), **flags)
    return result


def clean_fids_network(folder: Path) -> Any:
    wrapper = pytest.importorskip("cleanfid.inception_torchscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return wrapper.InceptionV3W(str(folder), download=False, resize_inside=True)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Clean-fid knows the file by its published name and takes 2048 features for granted.
    return stand_in(tmp_path_factory.mktemp("wide") / "inception-2015-12-05.pt", channels=8, pool=16)


def test_features_are_what_clean_fid_gets(wide: Path) -> None:
    images = some_images(5, size=32)
    with torch.no_grad():
        theirs = clean_fids_network(wide.parent)(images.permute(0, 3, 1, 2).float() / 255 * 255)
    ours = InceptionExtractor(wide)
    assert ours.dimension == 2048
    torch.testing.assert_close(ours(images), theirs, rtol=1e-5, atol=1e-6)
    assert theirs.std() > 0.05


@pytest.mark.slow
def test_features_are_what_clean_fid_gets_from_image_files(wide: Path, tmp_path: Path) -> None:
    fid = pytest.importorskip("cleanfid.fid")
    images = some_images(5, size=32)
    for index, image in enumerate(images):
        Image.fromarray(image.numpy()).save(tmp_path / f"{index}.png")
    theirs = fid.get_folder_features(
        str(tmp_path),
        clean_fids_network(wide.parent),
        num_workers=0,
        batch_size=3,
        device=torch.device("cpu"),
        mode="legacy_tensorflow",
        verbose=False,
    )
    np.testing.assert_allclose(InceptionExtractor(wide)(images).numpy(), theirs, rtol=1e-5, atol=1e-6)


def test_probabilities_are_the_networks_own_without_bias(
    network: Path, extractor: InceptionExtractor
) -> None:
    images = some_images(6)
    features, probabilities = extractor.features_and_probabilities(images)
    assert torch.equal(features, extractor(images))
    assert probabilities.shape == (6, 11)
    torch.testing.assert_close(features, direct(network, images, return_features=True), rtol=1e-5, atol=1e-6)
    own = direct(network, images, no_output_bias=True)
    torch.testing.assert_close(probabilities, own.double(), rtol=1e-5, atol=1e-6)
    assert (own - direct(network, images)).abs().max() > 1e-3  # the bias would have shown


def test_description(network: Path, extractor: InceptionExtractor) -> None:
    assert isinstance(extractor, ProbabilityExtractor)
    assert (extractor.name, extractor.dimension) == ("inception", 8)
    assert extractor.sha256 == files.sha256(network)
    for word in ("8 pool features", "2015-12-05", "TensorFlow 1", "float32"):
        assert word in extractor.definition


def test_many_images_go_through_in_parts(
    extractor: InceptionExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = some_images(7)
    whole = extractor(images)
    assert whole.dtype == torch.float32
    assert not whole.requires_grad
    seen: list[int] = []
    net = extractor._net

    def count(part: Tensor, return_features: bool) -> Tensor:
        seen.append(len(part))
        return net(part, return_features=return_features)

    monkeypatch.setattr(extractor, "_net", count)
    monkeypatch.setattr(inception, "BATCH", 3)
    torch.testing.assert_close(extractor(images), whole, rtol=1e-5, atol=1e-6)
    assert seen == [3, 3, 1]


def test_nothing_gives_no_features(extractor: InceptionExtractor) -> None:
    features, probabilities = extractor.features_and_probabilities(some_images(0))
    assert (features.shape, probabilities.shape) == ((0, 8), (0, 11))


def test_grey_images_are_repeated(extractor: InceptionExtractor) -> None:
    grey = some_images(3, channels=1)
    assert torch.equal(extractor(grey), extractor(grey.repeat(1, 1, 1, 3)))
    with pytest.raises(UserError, match="not 4 channels"):
        extractor(some_images(2, channels=4))
    with pytest.raises(ValueError, match="uint8"):
        extractor(some_images(2).float())


def test_tf32_is_off_in_the_network_and_as_before_outside(
    extractor: InceptionExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []

    def look(part: Tensor, return_features: bool) -> Tensor:
        seen.append((torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()))
        raise RuntimeError("seen")

    monkeypatch.setattr(extractor, "_net", look)
    before = torch.backends.cudnn.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        with pytest.raises(RuntimeError, match="seen"):
            extractor(some_images(2))
        assert torch.backends.cudnn.allow_tf32
    assert seen == [(False, False)]
    assert torch.backends.cudnn.allow_tf32 == before


def test_files_that_are_no_torchscript_are_refused(tmp_path: Path, network: Path) -> None:
    (tmp_path / "page.pt").write_text("<html>not found</html>")
    (tmp_path / "half.pt").write_bytes(network.read_bytes()[:3000])
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    for name in ("page", "half", "weights"):
        with pytest.raises(UserError, match=rf"{name}\.pt is no TorchScript file .*gdd fetch inception"):
            InceptionExtractor(tmp_path / f"{name}.pt")
    for path in (tmp_path / "missing.pt", tmp_path):
        with pytest.raises(UserError, match=r"does not exist; run `gdd fetch inception`"):
            InceptionExtractor(path)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (NoFlags(), "another interface"),
        (NoOutput(), "another interface .*output"),
        (Fails(1, 1, 1), "another interface .*no such image"),
        (Flat(3, 1, 3), "other probabilities"),
        (NotFinite(3, 1, 3), "no numbers"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_networks_with_another_interface_are_refused(tmp_path: Path, net: nn.Module, message: str) -> None:
    path = save_script(net, tmp_path / "net.pt")
    with pytest.raises(UserError, match=message) as error:
        InceptionExtractor(path)
    assert "gdd fetch inception" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_file_chooses_the_extractor(tmp_path: Path, network: Path) -> None:
    data: Any = SimpleNamespace(shape=(3, 9, 9))
    assert isinstance(make_extractor(network, data), InceptionExtractor)
    assert isinstance(make_extractor(None, data), PixelExtractor)
    with seeded_weights(0):
        net = SmallClassifier("residual", 4, 1, 10, 8)
    save_classifier(tmp_path / "judge.safetensors", net, feature_scale=1.0)
    assert isinstance(make_extractor(tmp_path / "judge.safetensors", data), ClassifierExtractor)


def test_one_pass_feeds_every_metric(tmp_path: Path, extractor: InceptionExtractor) -> None:
    real = some_images(40, seed=1)
    reference = build_reference(
        real.numpy(), extractor, dataset="noise", dataset_sha256="b" * 64, path=tmp_path / "ref.npz"
    )
    block = evaluate_block(
        lambda first, count: real[first : first + count],
        start=0,
        count=40,
        batch=16,
        references={"judge": (extractor, reference)},
        metrics={"fid", "precision", "recall", "inception_score"},
    )["judge"]
    assert block["fid"] < 1e-5
    assert block["precision"] == block["recall"] == 1
    assert 1 < block["inception_score"] < 11
    assert (block["extractor"], block["definition"]) == ("inception", extractor.definition)
