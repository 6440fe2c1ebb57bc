"""Streams: the same name gives the same numbers, another name gives others, and batches do not matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdd.randomness import labels, latents, noise, stream

NAMES = st.tuples(
    st.integers(0, 2**40), st.sampled_from(["latent", "label", "x", "x/1", ""]), st.integers(0, 2**40)
)
SHAPE = (2, 3, 3)
quick = settings(max_examples=40, deadline=None)


def draw(name: tuple[int, str, int]) -> list[float]:
    return torch.randn(4, generator=stream(*name)).tolist()


@quick
@given(one=NAMES, other=NAMES)
def test_a_name_is_a_stream(one: tuple[int, str, int], other: tuple[int, str, int]) -> None:
    assert draw(one) == draw(one)
    assert (draw(one) == draw(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, "x", 1), (1, "x", 0)),
        ((1, "x", 11), (11, "x", 1)),
        ((0, "x", 0), (0, "y", 0)),
        ((0, "x", 1), (0, "x/1", 1)),
    ],
)
def test_names_that_are_easily_confused(one: Any, other: Any) -> None:
    assert draw(one) != draw(other)


def test_nothing_else_has_an_influence() -> None:
    torch.manual_seed(1)
    before = noise(3, "x", 4, (5,))
    torch.manual_seed(2)
    torch.rand(7)
    state = torch.get_rng_state()
    assert torch.equal(noise(3, "x", 4, (5,)), before)
    assert torch.equal(torch.get_rng_state(), state)  # nor do streams have one on anybody else


def test_numbers_stay_the_same_from_version_to_version() -> None:
    # Published metrics name their seeds; these numbers are what the seeds stand for.
    assert noise(0, "latent", 0, (3,)).tolist() == pytest.approx([-1.067013, 0.171007, 0.986543], abs=1e-6)
    assert labels(0, 0, 8, 10).tolist() == [2, 1, 0, 2, 7, 1, 6, 2]


@quick
@given(seed=st.integers(0, 5), start=st.integers(0, 10**9), count=st.integers(1, 12), data=st.data())
def test_images_do_not_depend_on_the_split_over_batches(
    seed: int, start: int, count: int, data: st.DataObject
) -> None:
    split = data.draw(st.integers(0, count))
    batches = [batch for batch in ((start, split), (start + split, count - split)) if batch[1]]
    whole = latents(seed, start, count, SHAPE)
    assert whole.shape == (count, *SHAPE)
    assert torch.equal(torch.cat([latents(seed, *batch, SHAPE) for batch in batches]), whole)
    classes = torch.cat([labels(seed, *batch, 10) for batch in batches])
    assert torch.equal(classes, labels(seed, start, count, 10))


def test_latents_are_unit_gaussian() -> None:
    drawn = latents(0, 0, 500, (1, 4, 4))
    assert drawn.dtype == torch.float32
    assert abs(drawn.mean()) < 0.05
    assert abs(drawn.std() - 1) < 0.05
    assert len({tuple(image.flatten().tolist()) for image in drawn}) == 500


def test_labels_are_uniform_classes() -> None:
    drawn = labels(0, 0, 1000, 4)
    assert drawn.dtype == torch.int64
    counts = torch.bincount(drawn, minlength=4)
    assert counts.shape == (4,)
    assert (counts - 250).abs().max() < 60  # 4.4 standard deviations
