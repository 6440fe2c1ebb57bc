from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from published_files import assert_close, assert_passes_gradients, timm_state
from torch import Tensor, nn

from gdd.adversary.efficientnet import tf_efficientnet_b0_ns, tf_efficientnet_lite0
from gdd.adversary.feature_network import StagedNetwork
from gdd.adversary.published_weights import WeightsProblem

Build = Callable[[dict[str, Tensor]], StagedNetwork]


@pytest.mark.parametrize(
    ("build", "architecture"),
    [(tf_efficientnet_lite0, "tf_efficientnet_lite0"), (tf_efficientnet_b0_ns, "tf_efficientnet_b0")],
)
def test_folded_network_gives_timms_taps(build: Build, architecture: str) -> None:
    state = timm_state(architecture)
    with torch.device("meta"):
        whole = timm.create_model(architecture, pretrained=False)
    counters = {name: torch.tensor(0) for name in whole.state_dict() if name.endswith("num_batches_tracked")}
    whole.load_state_dict({**state, **counters}, assign=True)
    whole.eval()
    net = build(state)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = whole.forward_intermediates(images, indices=[1, 2, 3, 4], intermediates_only=True)
        taps = net.taps(images)
    assert_close(taps, expected)
    assert net.channels == tuple(tap.shape[1] for tap in taps) == (24, 40, 112, 320)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert not any(tensor.is_meta for tensor in [*net.parameters(), *net.buffers()])
    assert sum(p.numel() for p in net.parameters()) < sum(p.numel() for p in whole.parameters()) - 1280 * 1000


def test_the_two_are_told_apart() -> None:
    state = timm_state("tf_efficientnet_lite0")
    with pytest.raises(WeightsProblem, match=r"'blocks\.0\.0\.se\.conv_reduce\.weight'"):
        tf_efficientnet_b0_ns(state)
    with pytest.raises(WeightsProblem, match="another network's"):
        tf_efficientnet_lite0(timm_state("tf_efficientnet_b0"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "architecture"),
    [(tf_efficientnet_lite0, "tf_efficientnet_lite0"), (tf_efficientnet_b0_ns, "tf_efficientnet_b0")],
)
def test_gradients(build: Build, architecture: str) -> None:
    net = build(timm_state(architecture)).double()
    assert_passes_gradients(net, torch.rand(1, 3, 32, 32, dtype=torch.float64) * 2 - 1)
