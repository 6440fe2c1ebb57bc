"""The one training loop, for teachers and students alike."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
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

    def step(self) -> Mapping[str, float]:
        """Train on one batch, advance `images`, and return losses (`loss...`) and counters to log.

        With several processes each trains on its share and returns what holds for the whole batch. They are
        read when a line of the log, a snapshot, a checkpoint or the end is due.
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
    Whatever is due at a number of images happens at the first step boundary at or after it. Losses that are
    not finite are noticed when they are read, up to a line of the log later, and before anything is saved.

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
    last_checkpoint = trainee.images
    log = TrainingLog(name, run.state if run else None, trainee.images, total, before.seconds)

    steps = _Steps(name, log, run, patience, before.nonfinite_steps)

    def trained() -> Trained:
        here = log.seconds - before.seconds
        return Trained(log.seconds, before.device_seconds + world.size * here, steps.nonfinite)

    with log, StopRequest() as stop, run.written() if run else contextlib.nullcontext():

        def interrupted() -> bool:
            log.alive()
            return stop.requested

        while trainee.images < total:
            start = trainee.images
            steps.unread.append((trainee.step(), trainee.images))
            log.advance(trainee.images)
            ended = trainee.images >= total
            due = [count for count in snapshots if start < count <= trainee.images]
            measured = monitor and (ended or start // monitor.every < trainee.images // monitor.every)
            saved = trainee.images - last_checkpoint >= checkpoint_every
            if due or measured or saved or log.due(trainee.images):
                steps.read()

            for count in due:
                if run:
                    trainee.snapshot(count)
                world.broadcast(None)

            if monitor and measured:
                if run:
                    log.measure(partial(monitor.measure, interrupted))
                world.broadcast(None)

            if ended:
                break
            stopped = world.any(stop.requested)
            if stopped:
                steps.read()
            # While losses are not finite, the checkpoint from before is worth more.
            if (stopped or saved) and not steps.in_a_row:
                last_checkpoint = trainee.images
                if run:
                    content = {"trainee": trainee.state(), "trained": trained()._asdict()}
                    run.begin_checkpoint(trainee.images, content)
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


class _Steps:
    """The steps of a run: those whose losses nobody has looked at, and how many had none that was finite."""

    def __init__(
        self, name: str, log: TrainingLog, run: RunDirectory | None, patience: int, nonfinite: int
    ) -> None:
        self.name = name
        self.log = log
        self.run = run
        self.patience = patience
        self.nonfinite = nonfinite
        self.in_a_row = 0
        self.unread: list[tuple[Mapping[str, float], int]] = []  # with the images seen after it

    def read(self) -> None:
        """Look at those since the last time, in their order.

        Raises:
            DivergedError: there has been no finite loss for so many steps.
        """
        for scalars, images in self.unread:
            finite = all(math.isfinite(value) for key, value in scalars.items() if "loss" in key)
            self.nonfinite += not finite
            self.in_a_row = 0 if finite else self.in_a_row + 1
            self.log.step(images, {**scalars, "nonfinite_steps": float(not finite)})
            if self.in_a_row >= self.patience:
                raise _diverged(self.name, self.in_a_row, images, self.run)
        self.unread.clear()


def _diverged(name: str, steps: int, images: int, run: RunDirectory | None) -> DivergedError:
    newest = run.newest_checkpoint() if run else None
    kept = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint from before"
    return DivergedError(
        f"{name} has had no finite loss in {steps} steps in a row, up to {images:,} images; {kept}. "
        "Try a smaller learning rate."
    )
