"""The one training loop, for teachers and students alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gdd.errors import DivergedError, Stopped
from gdd.training.log import TrainingLog
from gdd.training.processes import StopRequest
from gdd.training.run_directory import RunDirectory, load_checkpoint
from gdd.training.world import ALONE, Execution, World


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


class Monitor(NamedTuple):
    """What is measured after every so many images and at the end, without an effect on the run.

    `measure(interrupted)` is called in the main process, while the others wait. It returns values by name,
    or None once `interrupted()` is true: this measurement is then left out.
    """

    every: int
    measure: Callable[[Callable[[], bool]], dict[str, float] | None]


class Trained(NamedTuple):
    """What a run took, over all its starts."""

    seconds: float = 0.0
    device_seconds: float = 0.0  # times the number of processes
    nonfinite_steps: int = 0  # with a NaN or infinite loss


def train(
    trainee: Trainee,
    run: RunDirectory | None,
    *,
    name: str,
    total: int,
    snapshots: Sequence[int],
    checkpoint_every: int,
    world: World = ALONE,
    patience: int = Execution.patience,
    monitor: Monitor | None = None,
) -> Trained:
    """Train until `total` images have been seen, from the newest checkpoint if there is one.

    All processes of `world` call this with the same arguments, but `run` is None in all but the main one.
    Whatever is due at a number of images happens at the first step boundary at or after it.

    Args:
        trainee: what is trained.
        run: its folder.
        name: for the progress bar.
        total: images at which training ends.
        snapshots: nominal image counts of snapshots.
        checkpoint_every: images between two checkpoints.
        world: the processes that train together.
        patience: steps in a row with a NaN or infinite loss after which the run ends.
        monitor: what is measured on the way.

    Raises:
        Stopped: somebody asked for a stop; a checkpoint has been written.
        DivergedError: `patience` steps in a row had no finite loss.
        ProcessLost: another process has ended.
    """
    before = _resume(trainee, run, world)
    nonfinite_steps, in_a_row, last_checkpoint = before.nonfinite_steps, 0, trainee.images
    log = TrainingLog(name, run.state if run else None, trainee.images, total, before.seconds)

    def trained() -> Trained:
        here = log.seconds - before.seconds
        return Trained(log.seconds, before.device_seconds + world.size * here, nonfinite_steps)

    with log, StopRequest() as stop:

        def interrupted() -> bool:
            log.alive()
            return stop.requested

        while trainee.images < total:
            start = trainee.images
            scalars = trainee.step()
            finite = all(math.isfinite(value) for key, value in scalars.items() if "loss" in key)
            nonfinite_steps += not finite
            in_a_row = 0 if finite else in_a_row + 1
            log.step(trainee.images, {**scalars, "nonfinite_steps": float(not finite)})
            ended = trainee.images >= total

            for due in snapshots:
                if start < due <= trainee.images:
                    if run:
                        trainee.snapshot(due)
                    world.broadcast(None)

            if in_a_row >= patience:
                raise _diverged(name, in_a_row, trainee.images, run)

            if monitor and (ended or start // monitor.every < trainee.images // monitor.every):
                if run:
                    log.measure(partial(monitor.measure, interrupted))
                world.broadcast(None)

            if ended:
                break
            stopped = world.any(stop.requested)
            # While losses are not finite, the checkpoint from before is worth more.
            if (stopped or trainee.images - last_checkpoint >= checkpoint_every) and not in_a_row:
                last_checkpoint = trainee.images
                if run:
                    content = {"trainee": trainee.state(), "trained": trained()._asdict()}
                    run.save_checkpoint(trainee.images, content)
                world.broadcast(None)
            if stopped:
                raise Stopped(f"{name} stopped at {trainee.images:,} of {total:,} images.")
    return trained()


def _resume(trainee: Trainee, run: RunDirectory | None, world: World) -> Trained:
    """Load the newest whole checkpoint, which the main process finds, in every process."""
    path: Path | None = world.broadcast(run.newest_checkpoint() if run else None)
    if path is None:
        return Trained()
    saved = load_checkpoint(path)
    trainee.load(saved["trainee"])
    return Trained(**saved["trained"])


def _diverged(name: str, steps: int, images: int, run: RunDirectory | None) -> DivergedError:
    newest = run.newest_checkpoint() if run else None
    kept = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint from before"
    return DivergedError(
        f"{name} has had no finite loss in {steps} steps in a row, up to {images:,} images; {kept}. "
        "Try a smaller learning rate."
    )
