"""Inception's features as clean-fid gets them from the same file, and the Inception Score."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from cleanfid.inception_torchscript import InceptionV3W
from inception_stand_in import StandIn, save_script, some_images
from PIL import Image
from torch import Tensor, nn

from gdd import files
from gdd.errors import UserError
from gdd.metrics import extractors
from gdd.metrics.inception import CleanInceptionExtractor, InceptionExtractor, inception_score
from gdd.randomness import seeded_weights

KINDS = {"legacy_tensorflow": InceptionExtractor, "clean": CleanInceptionExtractor}  # by clean-fid's mode


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Clean-fid knows the file by its published name and takes 2048 features for granted.
    with seeded_weights(0):
        return save_script(StandIn(8, 16, 11), tmp_path_factory.mktemp("net") / "inception-2015-12-05.pt")


@pytest.mark.parametrize("mode", KINDS)
def test_features_are_clean_fids(
    mode: str, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.cat([some_images(5), some_images(5, seed=2) // 2])
    for index, image in enumerate(images):
        Image.fromarray(image.numpy()).save(tmp_path / f"{index:03d}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = InceptionV3W(str(network.parent), download=False, resize_inside=mode == "legacy_tensorflow")
    options: dict[str, Any] = {"num_workers": 0, "device": torch.device("cpu"), "verbose": False}
    theirs = cleanfid.get_folder_features(str(tmp_path), net, mode=mode, **options)
    assert theirs.std() > 0.05
    extractor = KINDS[mode](network, trusted=[files.sha256(network)])
    monkeypatch.setattr(extractors, "BATCH", 3)
    ours = extractor(images)
    assert (ours.dtype, ours.requires_grad) == (torch.float32, False)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-5)
    grey = some_images(3, channels=1)
    assert torch.equal(extractor(grey), extractor(grey.repeat(1, 1, 1, 3)))


def test_the_two_resizes_differ_and_say_so(network: Path) -> None:
    inside, outside = (KINDS[mode](network, trusted=[files.sha256(network)]) for mode in KINDS)
    images = some_images(5)
    assert (inside(images) - outside(images)).abs().max() > 1e-2
    assert (inside.name, outside.name) == ("inception", "inception-clean")
    assert inside.dimension == outside.dimension == 2048
    assert inside.sha256 == outside.sha256 == files.sha256(network)
    assert inside.definition.startswith("2048 pool features of the Inception-v3 network of 2015-12-05")
    assert "TensorFlow 1" in inside.definition
    assert "clean-fid" in outside.definition


def test_probabilities_are_the_networks_own_without_bias(network: Path) -> None:
    images, extractor = some_images(6), InceptionExtractor(network, trusted=[files.sha256(network)])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        net: Any = torch.jit.load(network)
        expected = net(images.permute(0, 3, 1, 2), no_output_bias=True)
        biased = net(images.permute(0, 3, 1, 2))
    found = extractor.probabilities(extractor(images))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-6)
    assert (found - biased).abs().max() > 1e-3


def test_tf32_is_off_in_the_network_and_as_before_outside(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = InceptionExtractor(network, trusted=[files.sha256(network)])
    seen: list[Any] = []

    def look(images: Tensor) -> Tensor:
        seen.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
        raise RuntimeError("seen")

    monkeypatch.setattr(extractor, "features", look)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            with pytest.raises(RuntimeError, match="seen"):
                extractor(some_images(2))
            assert torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == [(False, "highest")]


class NoFlags(StandIn):
    def forward(self, img: Tensor) -> Tensor:  # type: ignore[override]
        return img.to(torch.float32).mean((2, 3))


class Fails(StandIn):
    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        raise RuntimeError("no such image")
        return img


def test_other_files_are_refused(tmp_path: Path, network: Path) -> None:
    for net in (NoFlags(1, 1, 1), Fails(1, 1, 1), nn.Flatten()):
        save_script(net, tmp_path / f"{type(net).__name__}.pt")
    (tmp_path / "page.pt").write_text("<html>not found</html>")
    (tmp_path / "half.pt").write_bytes(network.read_bytes()[:3000])
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    for path in tmp_path.glob("*.pt"):
        refused = rf"{path.name} is not the Inception network .*; run `gdd fetch inception`"
        with pytest.raises(UserError, match=refused) as error:
            InceptionExtractor(path, trusted=[files.sha256(path)])
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"does not exist; run `gdd fetch inception`"):
        InceptionExtractor(tmp_path / "missing.pt")


class Writes(StandIn):
    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        torch.save(img, "canary")
        return self.layers(img.to(torch.float32)).flatten(1)


@pytest.mark.parametrize("name", ["inception", "inception-clean"])
def test_code_of_unknown_sha256_is_not_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save_script(Writes(3, 2, 11), tmp_path / "net.pt")
    sha256 = files.sha256(path)
    for trusted in ([], ["0" * 64]):
        with pytest.raises(UserError, match=f"code .TorchScript. that is not run, because .* {sha256}; run"):
            extractors.open_extractor(name, path, (3, 8, 8), trusted=trusted)
    assert not Path("canary").exists()
    if name == "inception":  # this network runs the module as a whole
        extractors.open_extractor(name, path, (3, 8, 8), trusted=[sha256])
        assert Path("canary").exists()


def test_published_scores(golden: Path) -> None:
    with np.load(golden / "metrics" / "features.npz") as stored:
        probabilities = torch.from_numpy(stored["probs"])
        expected_all = float(stored["inception_score_all"])
        expected_ten = [float(stored[f"inception_score_10_splits_{name}"]) for name in ("mean", "std")]
    assert inception_score(probabilities, splits=1) == pytest.approx((expected_all, 0.0), rel=1e-6)
    assert inception_score(probabilities) == pytest.approx(tuple(expected_ten), rel=1e-6)


def test_scores_span_the_range() -> None:
    certain = torch.eye(8).repeat(10, 1)  # holds zeros, where p log p is 0
    assert inception_score(certain) == pytest.approx((8.0, 0.0))
    assert inception_score(torch.full((20, 5), 0.2)) == pytest.approx((1.0, 0.0), abs=1e-7)
    # Sorted by class every split sees one class: the order is part of the definition.
    assert inception_score(torch.eye(4).repeat_interleave(10, 0), splits=4)[0] == pytest.approx(1.0)
    rows = torch.softmax(torch.randn(23, 4, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    parts = [inception_score(rows[low:high], splits=1)[0] for low, high in ((0, 7), (7, 15), (15, 23))]
    assert inception_score(rows, splits=3) == pytest.approx((np.mean(parts), np.std(parts)), rel=1e-12)
    with pytest.raises(UserError, match="10 images or more, got 9"):
        inception_score(torch.full((9, 2), 0.5))
