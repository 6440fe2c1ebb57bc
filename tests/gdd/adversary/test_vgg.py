from __future__ import annotations

import pytest
import torch
import torchvision
from published_files import assert_close, assert_passes_gradients, vgg_state
from torch import Tensor, nn

from gdd.adversary.published_weights import WeightsProblem
from gdd.adversary.vgg import vgg16_bn


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return vgg_state()


def test_folded_network_gives_the_evaluated_ones_taps(state: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        features = torchvision.models.vgg16_bn(weights=None).features
    given = {
        name.removeprefix("features."): value for name, value in state.items() if name.startswith("features")
    }
    features.load_state_dict(
        {**given, **{name: torch.tensor(0) for name in features.state_dict() if "num_" in name}}, assign=True
    )
    features.eval()
    images, expected = torch.randn(2, 3, 32, 32), []
    with torch.no_grad():
        x = images
        for index, layer in enumerate(features):
            x = layer(x)
            if index in (12, 22, 32, 42):
                assert isinstance(layer, nn.ReLU)
                expected.append(x.clone())
        net = vgg16_bn(state)
        taps = net.taps(images)
    assert_close(taps, expected)
    assert [(tap.shape[1], 32 / tap.shape[2]) for tap in taps] == [(128, 2), (256, 4), (512, 8), (512, 16)]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert not any(tensor.is_meta for tensor in [*net.parameters(), *net.buffers()])


def test_another_depth_is_refused(state: dict[str, Tensor]) -> None:
    shallower = {name: value for name, value in state.items() if not name.startswith("features.40.")}
    with pytest.raises(WeightsProblem, match="another network's"):
        vgg16_bn(shallower)


@pytest.mark.slow
def test_gradients(state: dict[str, Tensor]) -> None:
    assert_passes_gradients(vgg16_bn(state), torch.rand(1, 3, 32, 32) * 2 - 1)
