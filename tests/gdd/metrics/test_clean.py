from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inception_stand_in import ResidualStandIn, StandIn, save_script, some_images
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from gdd.errors import UserError
from gdd.metrics.clean import CleanInceptionExtractor, resize
from gdd.metrics.frechet import Moments, frechet_distance
from gdd.metrics.inception import InceptionExtractor
from gdd.metrics.kid import kernel_distance
from gdd.metrics.neighbours import neighbour_metrics
from gdd.networks.seeded import seeded_weights

pytestmark = pytest.mark.slow


class NoTrunk(nn.Module):
    """The interface of the published network without its trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(3, 4)

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        features = img.to(torch.float32).mean((2, 3)) / 255
        return features if return_features else F.linear(features, self.output.weight).softmax(dim=1)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Clean-fid knows the file by its published name and takes 2048 features for granted.
    with seeded_weights(0):
        return save_script(StandIn(8, 16, 11), tmp_path_factory.mktemp("net") / "inception-2015-12-05.pt")


def clean_fids_features(network: Path, images: Tensor, mode: str) -> np.ndarray:
    """Return what clean-fid makes of images in memory, by its own resize and its own wrapper."""
    wrapper = pytest.importorskip("cleanfid.inception_torchscript")
    resizer: Any = pytest.importorskip("cleanfid.resize").build_resizer(mode)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        net = wrapper.InceptionV3W(
            str(network.parent), download=False, resize_inside=mode == "legacy_tensorflow"
        )
        resized = np.stack([resizer(image) for image in images.numpy()])
        found: np.ndarray = net(torch.from_numpy(resized).permute(0, 3, 1, 2).float().contiguous()).numpy()
    return found


@pytest.mark.parametrize("size", [32, 64, 299, 340])
def test_the_resize_is_pillows_on_float_channels(size: int) -> None:
    (image,) = some_images(1, size)
    channels = [
        Image.fromarray(image[:, :, channel].numpy().astype(np.float32)).resize(
            (299, 299), Image.Resampling.BICUBIC
        )
        for channel in range(3)
    ]
    expected = np.clip(np.stack([np.asarray(channel) for channel in channels]), 0, 255)
    np.testing.assert_allclose(resize(image[None])[0].numpy(), expected, atol=1e-4)


def test_features_are_clean_fids(network: Path) -> None:
    images = some_images(5)
    theirs = clean_fids_features(network, images, "clean")
    extractor = CleanInceptionExtractor(network)
    ours = extractor(images).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert np.abs(ours - InceptionExtractor(network)(images).numpy()).max() > 1e-2  # another resize


def test_description(network: Path) -> None:
    extractor, whole = CleanInceptionExtractor(network), InceptionExtractor(network)
    assert (extractor.name, extractor.dimension) == ("inception-clean", 2048)
    assert extractor.sha256 == whole.sha256
    assert extractor.definition != whole.definition
    assert "clean-fid" in extractor.definition


def test_grey_is_repeated_and_nothing_gives_nothing(network: Path) -> None:
    extractor = CleanInceptionExtractor(network)
    grey = some_images(3, 8, channels=1)
    torch.testing.assert_close(extractor(grey), extractor(grey.repeat(1, 1, 1, 3)))
    assert extractor(grey[:0]).shape == (0, 2048)
    with pytest.raises(UserError, match="not 4 channels"):
        extractor(some_images(2, 8, channels=4))


def test_a_network_without_a_trunk_is_refused(tmp_path: Path) -> None:
    path = save_script(NoTrunk(), tmp_path / "net.pt")
    InceptionExtractor(path)
    with pytest.raises(UserError, match=r"no attribute layers.*gdd fetch inception"):
        CleanInceptionExtractor(path)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with seeded_weights(0):
        net = ResidualStandIn(16, 2048, 11)
    return save_script(net, tmp_path_factory.mktemp("residual") / "inception-2015-12-05.pt")


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["network", "residual"])
@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_distances_are_clean_fids(mode: str, trunk: str, request: pytest.FixtureRequest) -> None:
    cleanfid = pytest.importorskip("cleanfid.fid")
    network = request.getfixturevalue(trunk)
    real, fake = some_images(120, seed=1), some_images(120, seed=2) // 2
    extractor = CleanInceptionExtractor(network) if mode == "clean" else InceptionExtractor(network)
    ours = [extractor(images) for images in (real, fake)]
    theirs = [clean_fids_features(network, images, mode) for images in (real, fake)]

    def gaussian(part: Tensor) -> Any:
        moments = Moments(part.shape[1])
        moments.update(part)
        return moments.gaussian()

    # 119 dimensions hold everything that 120 images span; its matrix square root is not to be trusted beyond.
    basis = torch.linalg.svd(torch.cat(ours).double() - ours[0].double().mean(0), full_matrices=False)[2][:40]
    few = [part.double() @ basis.T for part in ours]
    those = [part.astype(np.float64) @ basis.numpy().T for part in theirs]
    fid = frechet_distance(gaussian(few[0]), gaussian(few[1]))
    statistics = [(part.mean(0), np.cov(part, rowvar=False)) for part in those]
    try:
        expected = cleanfid.frechet_distance(*statistics[0], *statistics[1])
    except TypeError:  # scipy 1.18 took sqrtm's argument away
        expected = fid
    assert fid == pytest.approx(expected, rel=1e-4)

    np.random.seed(0)  # noqa: NPY002
    expected = cleanfid.kernel_distance(theirs[0], theirs[1])
    assert kernel_distance(ours[0], ours[1]) == pytest.approx(expected, rel=1e-4)

    prdc = pytest.importorskip("prdc")
    near = some_images(120, seed=3)  # so that neither everything nor nothing is inside
    near_fakes = torch.cat([near[:60], fake[:60]])
    expected_shares = prdc.compute_prdc(
        theirs[0], clean_fids_features(network, near_fakes, mode), nearest_k=3
    )
    shares = neighbour_metrics(ours[0], extractor(near_fakes))._asdict()
    for name, value in shares.items():
        assert value == pytest.approx(expected_shares[name], rel=1e-4)
    assert 0 < shares["precision"] < 1
