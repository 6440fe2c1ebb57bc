from __future__ import annotations

import pytest

from gdd.adversary.adaptive_probability import AdaptiveProbability
from gdd.errors import UserError


def after(batches: int, signs: float, start: float = 0.0) -> AdaptiveProbability:
    controller = AdaptiveProbability(500, speed_kimg=100)
    controller.p = start
    for _ in range(batches):
        controller.update(signs, 100)
    return controller


def test_it_moves_every_four_batches_by_their_images() -> None:
    assert after(3, 100).p == 0
    assert after(4, 100).p == pytest.approx(0.02)  # 4 x 500 of 100,000 images
    assert after(7, 100).p == after(4, 100).p
    assert after(8, 100).p == pytest.approx(0.04)


def test_it_goes_from_0_to_1_in_the_published_500_kimg_and_no_further() -> None:
    controller = AdaptiveProbability(64)
    images = 0
    while controller.p < 1:
        controller.update(10, 10)
        images += 64
    assert images == pytest.approx(500_000, rel=0.002)
    for _ in range(4):
        controller.update(10, 10)
    assert controller.p == 1
    assert after(8, -100, start=0.03).p == 0


@pytest.mark.parametrize(("signs", "direction"), [(61, 1), (60, 0), (59, -1), (-100, -1)])
def test_it_goes_towards_the_target(signs: float, direction: int) -> None:
    assert after(4, signs, start=0.5).p == pytest.approx(0.5 + 0.02 * direction)


def test_the_mean_is_over_all_logits_since_the_last_adjustment() -> None:
    controller = AdaptiveProbability(500, speed_kimg=100, interval=2)
    controller.update(10, 10)
    controller.update(-90, 90)  # -80 of 100 together, though the mean of means is 0
    assert controller.p == 0
    controller.update(100, 100)
    controller.update(100, 100)  # nothing of before counts
    assert controller.p == pytest.approx(0.01)


def test_it_settles_at_the_target() -> None:
    controller = AdaptiveProbability(500, speed_kimg=100)
    for _ in range(1000):  # overfitting that augmentation takes away
        controller.update(round(1000 * (1 - controller.p)), 1000)
    assert controller.p == pytest.approx(0.4, abs=0.021)


def test_a_diverged_batch_says_nothing() -> None:
    assert after(4, float("nan"), start=0.5).p == 0.5
    controller = after(3, float("inf"), start=0.5)
    controller.update(100, 100)
    assert controller.p == pytest.approx(0.52)


def test_state_goes_on_in_the_middle_of_an_interval() -> None:
    before = after(6, 100)
    resumed = AdaptiveProbability(500, speed_kimg=100)
    resumed.load_state_dict(before.state_dict())
    for controller in (before, resumed):
        controller.update(-100, 100)
        assert controller.p == pytest.approx(0.02)
        controller.update(100, 100)
    assert resumed.state_dict() == before.state_dict()


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"batch": 1, "interval": 0}, {"batch": 1, "speed_kimg": 0.0}]
)
def test_settings_without_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match="above 0"):
        AdaptiveProbability(**wrong)
