"""The one training loop, for teachers and students alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gdd.training.progress import TrainingProgress
from gdd.training.run_directory import RunDirectory
from gdd.training.stop import Stopped, StopRequest


class Trainee(Protocol):
    """What the loop trains. `images` counts the images seen and says where every random stream stands."""

    images: int

    def step(self) -> dict[str, float]:
        """Train on one batch, advance `images`, and return losses and counters to log."""
        ...

    def snapshot(self, images: int) -> None:
        """Write what is kept for the nominal image count `images`."""
        ...

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on as if nothing had happened."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        ...


def train(
    trainee: Trainee,
    run: RunDirectory,
    *,
    name: str,
    total: int,
    snapshots: Sequence[int],
    checkpoint_every: int,
    log_every: int,
) -> float:
    """Train until `total` images have been seen, from the newest checkpoint if there is one.

    Args:
        trainee: what is trained.
        run: its folder, already owned by this process.
        name: for the progress bar.
        total: images at which training ends (the first step boundary at or after it).
        snapshots: nominal image counts of snapshots; each is taken at the first step boundary at or after it.
        checkpoint_every: images between two checkpoints.
        log_every: images between two lines of the log.

    Returns:
        Training time in seconds, over all starts.

    Raises:
        Stopped: somebody asked for a stop; a checkpoint has been written.
    """
    seconds = 0.0
    saved = run.checkpoints.load_latest()
    if saved is not None:
        trainee.load(saved["trainee"])
        seconds = saved["seconds"]
    last_checkpoint = start = trainee.images

    progress = TrainingProgress(name, run.state, start=start, total=total, every=log_every, seconds=seconds)
    status = "failed"
    try:
        with StopRequest() as stop:
            while trainee.images < total:
                before = trainee.images
                scalars = trainee.step()
                progress.step(trainee.images, scalars)

                for due in snapshots:
                    if before < due <= trainee.images:
                        trainee.snapshot(due)

                if trainee.images >= total:
                    break
                if stop.requested or trainee.images - last_checkpoint >= checkpoint_every:
                    last_checkpoint = trainee.images
                    run.checkpoints.save(
                        trainee.images, {"trainee": trainee.state(), "seconds": progress.seconds}
                    )
                if stop.requested:
                    status = "stopped"
                    raise Stopped(f"{name} stopped at {trainee.images:,} of {total:,} images.")
            status = "finished"
    finally:
        progress.close(status)
    return progress.seconds
