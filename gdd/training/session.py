"""One start of a run: what the training loop does between steps, and what it has to remember."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gdd.errors import DivergedError
from gdd.training.checkpoints import all_finite, load
from gdd.training.monitor import Monitor
from gdd.training.progress import Silence, TrainingProgress
from gdd.training.run_directory import RunDirectory
from gdd.training.stop import Stopped, StopRequest
from gdd.training.world import World

log = logging.getLogger(__name__)


class Trainee(Protocol):
    """What the loop trains. `images` counts the images seen and says where every random stream stands."""

    images: int

    def step(self) -> dict[str, float]:
        """Train on one batch, advance `images`, and return losses (`loss...`) and counters to log.

        With several processes each trains on its share and returns what holds for the whole batch.
        """
        ...

    def snapshot(self, images: int) -> None:
        """Write what is kept for the nominal image count `images`; the main process alone does."""
        ...

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on as if nothing had happened."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        ...


class Trained(NamedTuple):
    """What a run took, over all its starts."""

    seconds: float
    device_seconds: float  # times the number of processes
    nonfinite_steps: int  # with a loss that was no number


class Session:
    """Goes on from the newest checkpoint, in every process alike (see `gdd.training.loop.train`)."""

    def __init__(
        self,
        trainee: Trainee,
        run: RunDirectory | None,
        world: World,
        monitor: Monitor | None,
        *,
        name: str,
        total: int,
        log_every: int,
    ) -> None:
        self.trainee = trainee
        self.run = run
        self.world = world
        self.monitor = monitor
        self.name = name
        self.total = total
        self._saved = self._resume()
        self._nonfinite = self._saved["nonfinite_steps"]
        # Something was due when a stop came.
        self.unmeasured = bool(monitor and self._saved["unmeasured"])
        self.in_a_row = 0  # steps with a loss that was no number
        self.start = self.last_checkpoint = trainee.images
        seconds = self._saved["seconds"]
        self.progress: TrainingProgress | Silence = Silence(seconds)
        if run:
            self.progress = TrainingProgress(
                name, run.state, start=self.start, total=total, every=log_every, seconds=seconds
            )

    def taken(self) -> Trained:
        """Return what the run has taken so far."""
        here = self.progress.seconds - self._saved["seconds"]
        spent = self._saved["device_seconds"] + self.world.size * here
        return Trained(self.progress.seconds, spent, self._nonfinite)

    def step(self) -> None:
        """Train on one batch and log it."""
        scalars = self.trainee.step()
        diverged = not all(math.isfinite(value) for key, value in scalars.items() if "loss" in key)
        self._nonfinite += diverged
        self.in_a_row = self.in_a_row + 1 if diverged else 0
        self.progress.step(self.trainee.images, {**scalars, "nonfinite_steps": float(diverged)})

    def snapshot(self, before: int, counts: Sequence[int]) -> None:
        """Take the snapshots that the step which began at `before` images has made due."""
        for due in counts:
            if before < due <= self.trainee.images:
                if self.run:
                    self.trainee.snapshot(due)
                self.world.broadcast(None)

    def measure(self, stop: StopRequest, before: int | None = None) -> None:
        """Measure what is due after the step which began at `before` images, or what was left over.

        A stop comes first, and leaves it to the next start.
        """
        if not self.monitor:
            return
        due = self.unmeasured if before is None else self.monitor.due(before, self.trainee.images, self.total)
        if not due:
            return

        def interrupted() -> bool:
            self.progress.alive()
            return stop.requested

        with self.progress.paused():
            values = self.monitor.measure(interrupted) if self.monitor.measure else None
            if values is not None:
                self.progress.measured(self.trainee.images, values)
            self.unmeasured = not self.world.broadcast("done" if values is not None else "")

    def save(self) -> None:
        """Write a checkpoint."""
        self.last_checkpoint = self.trainee.images
        if self.run:
            state = self.trainee.state()
            # The one before is worth more than one that nothing can be made of.
            if all_finite(state):
                facts = {**self.taken()._asdict(), "unmeasured": self.unmeasured}
                self.run.checkpoints.save(self.trainee.images, {"trainee": state, **facts})
            else:
                log.warning(
                    "%s: no checkpoint at %s images: not all is finite.",
                    self.name,
                    f"{self.trainee.images:,}",
                )
        self.world.broadcast(None)

    def stopped(self) -> Stopped:
        """Write a checkpoint and return what is to be raised."""
        self.save()
        return Stopped(f"{self.name} stopped at {self.trainee.images:,} of {self.total:,} images.")

    def diverged(self) -> DivergedError:
        """Return what is to be raised after so many steps in a row with losses that are no numbers."""
        newest = self.run.checkpoints.newest() if self.run else None
        kept = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint from before"
        return DivergedError(
            f"{self.name} has had no finite loss in {self.in_a_row} steps in a row, up to "
            f"{self.trainee.images:,} images; {kept}. Try a smaller learning rate."
        )

    def _resume(self) -> dict[str, Any]:
        """Load the newest whole checkpoint, which the main process names, in every process."""
        newest = self.run.checkpoints.newest() if self.run else None
        path = self.world.broadcast(str(newest or ""))
        fresh = {"seconds": 0.0, "device_seconds": 0.0, "nonfinite_steps": 0, "unmeasured": False}
        if not path:
            return fresh
        saved = fresh | load(Path(path))
        self.trainee.load(saved.pop("trainee"))
        return saved
