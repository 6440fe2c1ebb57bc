"""Batches on their way to the cluster: sent, tried again, and in the end given up one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from snakemake_executor_plugin_submitit.batch import Batch, Prepared
from snakemake_executor_plugin_submitit.cluster import Cluster
from snakemake_executor_plugin_submitit.registry import Registry
from snakemake_executor_plugin_submitit.sbatch import SubmissionError


class Submitter:
    """Sends batches; what the cluster does not take is sent again later, and nothing else waits for it."""

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
        self._cluster = cluster
        self._registry = registry
        self._run = run
        self._retries = retries
        self._logger = logger
        self._submitted = submitted
        self._refused = refused
        self._lock = threading.Lock()  # of the list that follows
        self._postponed: list[Batch] = []

    def submit(self, batch: Batch) -> None:
        """Send `batch` or, if that fails, put it off."""
        first = batch.jobs[0]
        batch.tries += 1
        try:
            self._registry.intend(batch.token, first.folder, [one.print for one in batch.jobs])
            commands = [one.command for one in batch.jobs]
            job_id = self._cluster.send(first.folder, first.request, commands, batch.token, self._run)
        except Exception as error:
            permanent = (
                error.permanent if isinstance(error, SubmissionError) else not isinstance(error, OSError)
            )
            found = None if permanent else self._find(batch.token)
            if found is None:
                self._failed(batch, str(error) or type(error).__name__, permanent)
                return
            job_id = found
        self._registry.submitted(batch.token, job_id)
        self._submitted(batch, job_id)

    def submit_postponed(self) -> None:
        """Send what is due for another try."""
        now = time.monotonic()
        with self._lock:
            due = [batch for batch in self._postponed if batch.due <= now]
            self._postponed = [batch for batch in self._postponed if batch.due > now]
        for batch in due:
            self.submit(batch)

    def drop_postponed(self) -> None:
        """Forget what was put off."""
        with self._lock:
            self._postponed = []

    def _failed(self, batch: Batch, why: str, permanent: bool) -> None:
        if permanent or batch.tries > self._retries:
            times = "" if batch.tries == 1 else f" {batch.tries} times"
            for one in batch.jobs:
                self._registry.ended([one.print.key])
                self._refused(one, f"{self._cluster.title} did not take it{times}: {why}")
            return
        parts = batch.later()
        pause = parts[0].due - time.monotonic()
        self._logger.warning(
            f"Submitting {len(batch.jobs)} of {batch.jobs[0].rule} failed ({why}); "
            f"try {batch.tries + 1} of {self._retries + 1} in {pause:.0f} s"
        )
        with self._lock:
            self._postponed += parts

    def _find(self, token: str) -> str | None:
        """Return the id of a submission that sbatch reported as failed although the controller took it."""
        for job_id, seen in (self._cluster.look([]) or {}).items():
            if token in seen.comment:
                return job_id.split("_")[0]
        return None
