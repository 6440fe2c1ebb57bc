"""The one training loop, for teachers and students alike."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gdd.errors import DivergedError
from gdd.training.checkpoints import all_finite, load
from gdd.training.distributed import ALONE, World
from gdd.training.execution import PLAIN
from gdd.training.progress import Silence, TrainingProgress
from gdd.training.run_directory import RunDirectory
from gdd.training.stop import Stopped, StopRequest

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


def train(
    trainee: Trainee,
    run: RunDirectory | None,
    *,
    name: str,
    total: int,
    snapshots: Sequence[int],
    checkpoint_every: int,
    log_every: int,
    world: World = ALONE,
    patience: int = PLAIN.patience,
) -> Trained:
    """Train until `total` images have been seen, from the newest checkpoint if there is one.

    Args:
        trainee: what is trained.
        run: its folder, already owned by the main process; None in all others.
        name: for the progress bar.
        total: images at which training ends (the first step boundary at or after it).
        snapshots: nominal image counts of snapshots; each is taken at the first step boundary at or after it.
        checkpoint_every: images between two checkpoints.
        log_every: images between two lines of the log.
        world: the processes that train together; all of them call this with the same arguments.
        patience: steps in a row with a loss that is no number, after which the run ends.

    Raises:
        Stopped: somebody asked for a stop; a checkpoint has been written.
        DivergedError: `patience` steps in a row had a loss that was no number.
        ProcessLost: another process has ended.
    """
    saved = _resume(trainee, run, world)
    nonfinite = saved["nonfinite_steps"]
    last_checkpoint = start = trainee.images

    progress: TrainingProgress | Silence = Silence(saved["seconds"])
    if run:
        progress = TrainingProgress(
            name, run.state, start=start, total=total, every=log_every, seconds=saved["seconds"]
        )

    def taken() -> Trained:
        here = progress.seconds - saved["seconds"]
        return Trained(progress.seconds, saved["device_seconds"] + world.size * here, nonfinite)

    def save() -> None:
        if run:
            state = trainee.state()
            # The one before is worth more than one that nothing can be made of.
            if all_finite(state):
                run.checkpoints.save(trainee.images, {"trainee": state, **taken()._asdict()})
            else:
                log.warning("%s: no checkpoint at %s images: not all is finite.", name, f"{trainee.images:,}")
        world.hear()

    in_a_row = 0
    status = "failed"
    try:
        with StopRequest() as stop:
            while trainee.images < total:
                before = trainee.images
                scalars = trainee.step()
                if before == start:
                    world.expect_answers()
                diverged = not all(math.isfinite(value) for key, value in scalars.items() if "loss" in key)
                nonfinite += diverged
                in_a_row = in_a_row + 1 if diverged else 0
                progress.step(trainee.images, {**scalars, "nonfinite_steps": float(diverged)})

                for due in snapshots:
                    if before < due <= trainee.images:
                        if run:
                            trainee.snapshot(due)
                        world.hear()

                if in_a_row >= patience:
                    raise DivergedError(_diverged(name, trainee.images, patience, run))
                if trainee.images >= total:
                    break
                stopping = world.any(stop.requested)
                due_now = trainee.images - last_checkpoint >= checkpoint_every
                if stopping or (due_now and not in_a_row):
                    last_checkpoint = trainee.images
                    save()
                if stopping:
                    status = "stopped"
                    raise Stopped(f"{name} stopped at {trainee.images:,} of {total:,} images.")
            status = "finished"
    finally:
        progress.close(status)
    return taken()


def _resume(trainee: Trainee, run: RunDirectory | None, world: World) -> dict[str, Any]:
    """Load the newest whole checkpoint, which the main process names, in every process."""
    newest = run.checkpoints.newest() if run else None
    path = world.hear(str(newest or ""))
    fresh: dict[str, Any] = {"seconds": 0.0, "device_seconds": 0.0, "nonfinite_steps": 0}
    if not path:
        return fresh
    saved = fresh | load(Path(path))
    trainee.load(saved.pop("trainee"))
    return saved


def _diverged(name: str, images: int, patience: int, run: RunDirectory | None) -> str:
    newest = run.checkpoints.newest() if run else None
    kept = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint from before"
    return (
        f"{name} has had no finite loss in {patience} steps in a row, up to {images:,} images; {kept}. "
        f"Try a smaller learning rate."
    )
