from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gdd.adversary.feature_network import FeatureNetwork, SmallBackbone
from gdd.errors import UserError
from gdd.networks.classifier import SmallClassifier
from gdd.randomness import seeded_weights


def classifier(architecture: str) -> SmallClassifier:
    with seeded_weights(0):
        net = SmallClassifier(architecture, 4, 1, 10, 8)
        for _ in range(5):  # so that the running statistics are not trivial
            net(torch.randn(32, 1, 8, 8) * 2 + 1)
    for parameter in net.parameters():  # so that neither are the affine parts
        parameter.data += 0.1
    return net.eval()


@pytest.mark.parametrize("architecture", ["plain", "residual"])
def test_folding_batch_norm_leaves_the_taps_as_they_are(architecture: str) -> None:
    net = classifier(architecture)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images = torch.rand(4, 1, 8, 8) * 2 - 1
    backbone = SmallBackbone(net)
    expected = net.taps(images)
    assert backbone.channels == tuple(tap.shape[1] for tap in expected)
    for tap, wanted in zip(backbone(images), expected, strict=True):
        assert torch.allclose(tap, wanted, atol=1e-5)
    # Only what comes first in a residual block has no convolution before it.
    left = [name for name, module in backbone.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(left) == (3 if architecture == "residual" else 0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_stays_frozen_and_in_eval_mode_but_passes_gradients_to_the_images() -> None:
    backbone = SmallBackbone(classifier("residual"))
    owner = nn.Sequential(backbone).train()
    backbone.requires_grad_(True)
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    images = torch.randn(2, 1, 8, 8, requires_grad=True)
    sum(tap.square().sum() for tap in owner(images)).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


class Passing(FeatureNetwork):
    def taps(self, prepared: Tensor) -> list[Tensor]:
        return [self.frozen(prepared)]


def test_images_are_signed_and_of_their_own_size_unless_a_backbone_says_otherwise() -> None:
    # With another normalisation: `test_backbones.py`.
    images = torch.rand(2, 1, 8, 8)
    network = Passing(nn.Identity(), (1,), img_channels=1, resolution=8)
    assert torch.equal(network(images)[0], images)


def test_wrong_channels_are_refused() -> None:
    with pytest.raises(UserError, match=r"takes images of 1 channels, but got \(2, 3, 8, 8\)"):
        SmallBackbone(classifier("plain"))(torch.randn(2, 3, 8, 8))
