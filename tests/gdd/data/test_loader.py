"""Batches: what one process would see, however many share the work and wherever a run begins again."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdd.data.image_array import ImageArray, write
from gdd.data.loader import Batches, EpochOrder

quick = settings(max_examples=60, deadline=None)


def numbered(count: int) -> ImageArray:
    """Images that say which they are, in memory: pixel (0, 0) is the number's low byte, (0, 1) its high one."""
    images = np.zeros((count, 2, 2, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(count) % 256, np.arange(count) // 256
    return ImageArray(images, np.arange(count) * 10, {"name": "numbered"})


def numbers(images: torch.Tensor) -> list[int]:
    wide = images.long()
    return (wide[:, 0, 0, 0] + 256 * wide[:, 0, 1, 0]).tolist()


@quick
@given(
    count=st.integers(1, 400),
    groups=st.integers(1, 9),
    group=st.integers(1, 5),
    world=st.integers(1, 11),
    seed=st.integers(0, 5),
    batches=st.integers(1, 6),
    first=st.integers(0, 2000),
)
def test_the_ranks_together_see_what_one_process_sees(
    count: int, groups: int, group: int, world: int, seed: int, batches: int, first: int
) -> None:
    array, batch = numbered(count), groups * group
    ranks = [Batches(array, seed, batch, rank, world, group=group) for rank in range(world)]
    seen, labels = [], []
    for position in range(first, first + batches * batch, batch):
        expected = position
        for rank in ranks:
            share = rank.at(position)
            assert share.position == expected
            assert len(share.images) % group == 0
            seen += numbers(share.images)
            labels += share.labels.tolist()
            expected += len(share.images)
    assert seen == EpochOrder(count, seed).indices(first, batches * batch).tolist()
    assert labels == [10 * number for number in seen]


@quick
@given(batch=st.integers(1, 100), world=st.integers(1, 16))
def test_the_work_is_shared_evenly(batch: int, world: int) -> None:
    sizes = [len(Batches(numbered(9), 0, batch, rank, world).at(0).images) for rank in range(world)]
    assert sum(sizes) == batch
    assert max(sizes) - min(sizes) <= 1


# The order of an epoch


@quick
@given(
    count=st.integers(1, 40), seed=st.integers(0, 9), position=st.integers(0, 200), size=st.integers(0, 99)
)
def test_an_epoch_shows_every_image_once_and_keeps_no_history(
    count: int, seed: int, position: int, size: int
) -> None:
    epochs = (position + size) // count + 1
    whole = EpochOrder(count, seed).indices(0, epochs * count)
    assert all(sorted(epoch) == list(range(count)) for epoch in whole.reshape(epochs, count))
    used = EpochOrder(count, seed)
    used.indices(position + 7 * count, 1)
    assert used.indices(position, size).tolist() == whole[position : position + size].tolist()


def test_epochs_and_seeds_differ() -> None:
    epochs = EpochOrder(100, 0).indices(0, 300).reshape(3, 100).tolist()
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert EpochOrder(100, 1).indices(0, 100).tolist() not in epochs


# Flips


def test_half_of_the_images_are_mirrored_others_in_every_epoch() -> None:
    order = EpochOrder(10_000, 4)
    first, second = order.mirrored(0, 20_000).reshape(2, 10_000)
    assert first.dtype == np.bool_
    for image in (first, second, first == second, first[1:] == first[:-1]):
        assert 0.48 < image.mean() < 0.52
    assert 0.48 < (EpochOrder(10_000, 5).mirrored(0, 10_000) == first).mean() < 0.52
    assert np.array_equal(EpochOrder(10_000, 4).mirrored(9_990, 20), [*first[-10:], *second[:10]])


@pytest.mark.parametrize("world", [1, 3])
def test_an_image_is_mirrored_in_width(world: int) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 4, 5, 3), dtype=np.uint8)
    array = ImageArray(images, np.arange(40), {"name": "random"})
    original = images.copy()
    order = EpochOrder(40, 6)
    for rank in range(world):
        share = Batches(array, 6, 100, rank, world, flip=True).at(0)
        for offset, image in enumerate(share.images.numpy(), start=share.position):
            expected = images[order.indices(offset, 1)[0]]
            mirrored = order.mirrored(offset, 1)[0]
            assert np.array_equal(image, expected[:, ::-1] if mirrored else expected)
    assert np.array_equal(images, original)


# The stream


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_a_stream_is_one_batch_after_the_other(prefetch: int) -> None:
    batches = Batches(numbered(50), 1, 8, 1, 2, flip=True)
    stream = batches.stream(16, prefetch=prefetch)
    for number, share in enumerate(itertools.islice(stream, 20)):
        expected = batches.at(16 + 8 * number)
        assert share.position == expected.position
        assert torch.equal(share.images, expected.images)
        assert torch.equal(share.labels, expected.labels)
    before = threading.active_count()
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before - bool(prefetch)


def test_what_goes_wrong_ahead_is_raised_where_it_is_wanted() -> None:
    batches, before = Batches(numbered(10), 0, 4), threading.active_count()
    original = batches.at

    def at(position: int) -> Any:
        if position == 8:
            raise OSError("the disk is gone")
        return original(position)

    batches.at = at  # type: ignore[method-assign]
    stream = batches.stream(prefetch=2)
    assert [next(stream).position, next(stream).position] == [0, 4]
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)
    assert threading.active_count() == before


def test_the_batch_is_the_callers(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    array = write(tmp_path, images, np.arange(30), {"name": "set"})
    share = Batches(array, 2, 12).at(24)
    assert (share.images.dtype, share.labels.dtype) == (torch.uint8, torch.int64)
    assert np.array_equal(share.images.numpy(), images[EpochOrder(30, 2).indices(24, 12)])
    share.images.zero_()
    assert np.array_equal(array.images, images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_memory() -> None:
    share = Batches(numbered(30), 2, 12).at(0)
    assert share.images.is_pinned()
    assert share.labels.is_pinned()
    assert torch.equal(share.images.to("cuda", non_blocking=True).cpu(), share.images)
