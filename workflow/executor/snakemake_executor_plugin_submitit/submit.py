"""Batches on their way to the cluster: sent, held back by limits, tried again, and in the end given up."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from typing import Any

from snakemake_executor_plugin_submitit.jobs import Batch, Cluster, Prepared, SubmissionError, array_of
from snakemake_executor_plugin_submitit.registry import Registry

LONGEST_WAIT = 60.0  # seconds between two tries of a failed sbatch
FULL = (errno.ENOSPC, errno.EDQUOT)


class Submitter:
    """Sends batches; what the cluster does not take is sent again later, and nothing else waits for it.

    A policy (MaxSubmitJobs and its kin) holds batches back for as long as it takes: halved until some of it
    fits, and again whenever a job has ended. Other failures are tried again so many times.
    """

    def __init__(
        self,
        cluster: Cluster,
        registry: Registry,
        run: str,
        retries: int,
        logger: Any,
        submitted: Callable[[Batch, str], None],
        refused: Callable[[Prepared, str], None],
    ) -> None:
        """Prepare to send to `cluster`.

        Args:
            cluster: takes the jobs.
            registry: is told before and after.
            run: name of this Snakemake.
            retries: how often a failed submission is repeated.
            logger: Snakemake's.
            submitted: called with a batch and its id.
            refused: called for each job that cannot be submitted, with the reason.
        """
        self._cluster, self._registry, self._run, self._retries = cluster, registry, run, retries
        self._logger, self._submitted, self._refused = logger, submitted, refused
        self._lock = threading.Lock()  # of what follows
        self._queue: list[Batch] = []
        self._limits: dict[object, float] = {}  # places where a limit was met, and when to look again
        self._said: set[str] = set()
        self._stopped = False

    def submit(self, batches: list[Batch]) -> None:
        """Send batches or, if that fails, put them off."""
        with self._lock:
            self._queue += batches
        self.send_due()

    def send_due(self) -> None:
        """Send what is due, in order; nothing passes others that wait for the same limit."""
        with self._lock:
            queue, self._queue = self._queue, []
            while queue and not self._stopped:
                batch = queue.pop(0)
                now = time.monotonic()
                if max(batch.due, self._limits.get(batch.jobs[0].request.place, 0.0)) > now:
                    self._queue.append(batch)
                else:
                    queue[:0] = self._send(batch)

    def places_free(self) -> None:
        """Note that a job ended: where a limit was met there may be room."""
        with self._lock:
            self._limits.clear()

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True

    def _send(self, batch: Batch) -> list[Batch]:
        """Send a batch; return its parts if they shall be sent at once."""
        batch.tries += 1
        try:
            self._registry.intend(batch)
            # sbatch may have reported a failure although the controller took it, or was about to.
            job_id = (batch.tries > 1 and self._find(batch.token)) or self._cluster.send(batch, self._run)
        except SubmissionError as refusal:
            job_id = "" if refusal.never or refusal.limit else self._find(batch.token)
            if not job_id:
                return self._failed(batch, refusal)
        except OSError as problem:
            return self._failed(batch, SubmissionError(str(problem), limit=problem.errno in FULL))
        except Exception as problem:
            return self._failed(batch, SubmissionError(f"{type(problem).__name__}: {problem}", never=True))
        self._registry.submitted(batch.token, job_id)
        self._submitted(batch, job_id)
        return []

    def _failed(self, batch: Batch, error: SubmissionError) -> list[Batch]:
        first, several = batch.jobs[0], len(batch.jobs) > 1
        if error.limit or error.smaller or error.never or batch.tries > self._retries:
            self._registry.ended([one.fingerprint.key for one in batch.jobs])
        if (error.limit or error.smaller) and several:
            batch.tries -= 1
            return batch.halves()
        if error.limit:
            batch.tries -= 1
            self._limits[first.request.place] = time.monotonic() + LONGEST_WAIT
            if str(error) not in self._said:
                self._said.add(str(error))
                words = (
                    f"{self._cluster.title} takes no more jobs for now ({error}); the others wait for room"
                )
                self._logger.warning(words)
            self._queue.append(batch)
        elif error.never or batch.tries > self._retries:
            times = "" if batch.tries == 1 else f" {batch.tries} times"
            for one in batch.jobs:
                self._refused(one, f"{self._cluster.title} did not take it{times}: {error}")
        else:
            pause = min(LONGEST_WAIT, 2.0**batch.tries)
            self._logger.warning(
                f"Submitting {len(batch.jobs)} of {first.rule} failed ({error}); "
                f"try {batch.tries + 1} of {self._retries + 1} in {pause:.0f} s"
            )
            batch.due = time.monotonic() + pause
            self._queue.append(batch)
        return []

    def _find(self, token: str) -> str:
        for job_id, state in (self._cluster.look([]) or {}).items():
            if token in state.comment:
                return array_of(job_id)
        return ""
