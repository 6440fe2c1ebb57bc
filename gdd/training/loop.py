"""The one training loop, for teachers and students alike."""

from __future__ import annotations

from collections.abc import Sequence

from gdd.training.execution import PLAIN
from gdd.training.monitor import Monitor
from gdd.training.run_directory import RunDirectory
from gdd.training.session import Session, Trained, Trainee
from gdd.training.stop import Stopped, StopRequest
from gdd.training.world import ALONE, World


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
    monitor: Monitor | None = None,
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
        monitor: what is measured on the way, without an effect on what is trained or on its time.

    Raises:
        Stopped: somebody asked for a stop; a checkpoint has been written.
        DivergedError: `patience` steps in a row had a loss that was no number.
        ProcessLost: another process has ended.
    """
    session = Session(trainee, run, world, monitor, name=name, total=total, log_every=log_every)
    status = "failed"
    try:
        with StopRequest() as stop:
            session.measure(stop)
            if session.unmeasured:
                raise session.stopped()
            while trainee.images < total:
                before = trainee.images
                session.step()
                session.snapshot(before, snapshots)
                if session.in_a_row >= patience:
                    raise session.diverged()
                session.measure(stop, before)
                if trainee.images >= total and not session.unmeasured:
                    break
                if session.unmeasured or world.any(stop.requested):
                    raise session.stopped()
                if trainee.images - session.last_checkpoint >= checkpoint_every and not session.in_a_row:
                    session.save()
        status = "finished"
    except Stopped:
        status = "stopped"
        raise
    finally:
        session.progress.close(status)
    return session.taken()
