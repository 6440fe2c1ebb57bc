"""How strongly to augment: ADA's controller (arXiv:2006.06676, Section 3)."""

from __future__ import annotations

import math
from typing import Any

from gdd.errors import UserError

INTERVAL = 4  # batches between two adjustments


class AdaptiveProbability:
    """The probability p, raised while the discriminator overfits and lowered while it does not.

    It overfits if r_t = E[sign(D(real))] is above the target, the expectation being over all logits of real,
    augmented images since the last adjustment. Every adjustment is a step of fixed size.

    Args:
        batch: images in a batch.
        target: of r_t (published: 0.6).
        speed_kimg: thousands of images in which p can go from 0 to 1 (published: 500).
        interval: batches between two adjustments (published: 4).

    Raises:
        UserError: one of them makes no sense.
    """

    def __init__(
        self, batch: int, *, target: float = 0.6, speed_kimg: float = 500.0, interval: int = INTERVAL
    ) -> None:
        if batch < 1 or interval < 1 or not speed_kimg > 0:
            raise UserError(
                f"Adaptive augmentation needs a batch, an interval and a speed above 0; "
                f"got {batch} images, {interval} batches and {speed_kimg} kimg."
            )
        self.target = target
        self.interval = interval
        self.step = batch * interval / (speed_kimg * 1000)
        self.p = 0.0
        self._signs = 0.0
        self._count = 0
        self._batches = 0

    def update(self, logit_signs_sum: float, count: int) -> None:
        """Take in one batch: the sum of the signs of the logits of its real images, and how many they are.

        A sum of signs is a whole number, the same however a batch is parted; a mean would not be. A batch
        whose sum is no number (a discriminator that diverges) says nothing about overfitting.
        """
        if math.isfinite(logit_signs_sum):
            self._signs += logit_signs_sum
            self._count += count
        self._batches += 1
        if self._batches == self.interval:
            self._adjust()

    def _adjust(self) -> None:
        if self._count:
            r_t = self._signs / self._count  # Eq. 1
            direction = (r_t > self.target) - (r_t < self.target)
            self.p = min(max(self.p + direction * self.step, 0.0), 1.0)
        self._signs, self._count, self._batches = 0.0, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return p and what has been seen since it was last adjusted, as plain numbers."""
        return {"p": self.p, "signs": self._signs, "count": self._count, "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.p = state["p"]
        self._signs, self._count, self._batches = state["signs"], state["count"], state["batches"]
