"""The convolution under spectral norm against PyTorch's own, in values, gradients and state."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from gdd.adversary.spectral_norm import SpectralNormConv2d

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def pair(layout: torch.memory_format, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """Return PyTorch's layer and ours, from the same seed."""
    made = []
    for make in (
        lambda: spectral_norm(nn.Conv2d(5, 6, 4, stride=2, padding=1)),
        lambda: SpectralNormConv2d(5, 6, 4, stride=2, padding=1),
    ):
        torch.manual_seed(0)
        made.append(make().to(dtype=dtype).to(memory_format=layout))
    return made[0], made[1]


def equal_states(one: nn.Module, other: nn.Module) -> None:
    assert list(one.state_dict()) == list(other.state_dict())
    for name, value in one.state_dict().items():
        assert torch.allclose(other.state_dict()[name], value, rtol=1e-12, atol=1e-14), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_starts_and_goes_on_as_pytorchs(layout: torch.memory_format) -> None:
    theirs, ours = pair(layout)
    equal_states(theirs, ours)
    assert [name for name, _ in theirs.named_parameters()] == [name for name, _ in ours.named_parameters()]
    generator = torch.Generator().manual_seed(1)
    for training in (True, True, False, True):
        x = torch.randn(2, 5, 8, 8, dtype=torch.float64, generator=generator)
        for layer in (theirs, ours):
            layer.train(training)
        assert torch.allclose(ours(x), theirs(x), rtol=1e-12, atol=1e-14)
        equal_states(theirs, ours)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("passes", [1, 2])
def test_gradients_are_pytorchs(layout: torch.memory_format, passes: int) -> None:
    found = []
    for layer in pair(layout):
        generator = torch.Generator().manual_seed(1)
        inputs = [torch.randn(2, 5, 8, 8, dtype=torch.float64, generator=generator) for _ in range(passes)]
        # Every pass iterates before any is differentiated, as in a step of the discriminator.
        total = torch.stack([layer(x).square().sum() for x in inputs]).sum()
        total.backward()
        found.append(gradients_of(layer))
    same(*found)
    assert found[1]["weight_orig"].stride() == found[0]["weight_orig"].stride()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_penalty_of_r1_reaches_the_weights(layout: torch.memory_format) -> None:
    found = []
    for layer in pair(layout):
        x = torch.linspace(-1, 1, 320, dtype=torch.float64).view(1, 5, 8, 8).requires_grad_(True)
        (gradient,) = torch.autograd.grad(layer(x).tanh().sum(), x, create_graph=True)
        gradient.square().sum().backward()
        found.append(gradients_of(layer))
    same(*found)


def gradients_of(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad for name, value in layer.named_parameters() if value.grad is not None}


def same(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    assert expected.keys() == found.keys() == {"weight_orig", "bias"}
    for name, value in expected.items():
        assert value.abs().max() > 0
        assert torch.allclose(found[name], value, rtol=1e-10, atol=1e-12), name


def test_a_second_derivative_by_the_weights_is_refused() -> None:
    layer = pair(torch.contiguous_format)[1]
    loss = layer(torch.ones(1, 5, 8, 8, dtype=torch.float64)).square().sum()
    gradients = torch.autograd.grad(loss, list(layer.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.stack([gradient.square().sum() for gradient in gradients]).sum().backward()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_not_copied(layout: torch.memory_format) -> None:
    """Of what is allocated in a pass forward, only the normalised weights have the weights' size."""
    layer = pair(layout, torch.float32)[1].requires_grad_(False)
    x = torch.randn(1, 5, 4, 4)
    size = 4 * layer.get_parameter("weight_orig").numel()
    assert allocations(lambda: layer(x), size) == 1


def allocations(work: Callable[[], object], size: int) -> int:
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return sum(event.nbytes() == size for event in events)


def test_a_copy_is_its_own() -> None:
    layer = pair(torch.contiguous_format)[1]
    twin = copy.deepcopy(layer)
    x = torch.ones(1, 5, 8, 8, dtype=torch.float64)
    layer(x)
    assert not torch.equal(layer.get_buffer("weight_u"), twin.get_buffer("weight_u"))
