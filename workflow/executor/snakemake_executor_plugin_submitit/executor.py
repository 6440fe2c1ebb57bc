"""The executor: Snakemake's ready jobs in, their ends out."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

from snakemake_executor_plugin_submitit.attach import Attachment, find
from snakemake_executor_plugin_submitit.batch import LONGEST_WAIT, Batch, Prepared, Submitted, group
from snakemake_executor_plugin_submitit.clusters import choose
from snakemake_executor_plugin_submitit.judge import Ended, judge
from snakemake_executor_plugin_submitit.pace import Pace
from snakemake_executor_plugin_submitit.parameters import ResourceError
from snakemake_executor_plugin_submitit.preparation import prepare, processors, wait_for_inputs
from snakemake_executor_plugin_submitit.queue import Queue, Seen
from snakemake_executor_plugin_submitit.registry import Registry
from snakemake_executor_plugin_submitit.sbatch import paths
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.submitter import Submitter


class Executor(RemoteExecutor):
    """Submits jobs and follows them.

    Two threads meet here: Snakemake's scheduler calls `run_jobs` and `cancel_jobs`, the base class's own
    thread calls `check_active_jobs`. Neither may raise, or Snakemake cancels everything.
    """

    def __init__(self, workflow: Any, logger: Any) -> None:
        self.ready = threading.Event()  # the base class starts its thread before it calls `__post_init__`
        super().__init__(workflow, logger)

    def __post_init__(self) -> None:
        """Open the list of submitted jobs and choose the cluster."""
        if self.workflow.remote_execution_settings.immediate_submit:
            raise WorkflowError("--immediate-submit leaves nobody who follows the jobs; this plugin does.")
        self.settings: ExecutorSettings = self.workflow.executor_settings
        self.folder = Path(self.settings.folder).absolute()
        self.registry = Registry(self.folder / "submitted.jsonl")
        self.queue = Queue(lambda: not self.wait)
        self.cluster = choose(self.settings, self.queue)
        self.run = uuid4().hex[:12]  # the name of this Snakemake, in the comment of its jobs
        self.submitter = Submitter(
            self.cluster,
            self.registry,
            self.run,
            self.settings.submit_retries,
            self.logger,
            submitted=self._submitted,
            refused=lambda one, why: self._report_error(SubmittedJobInfo(one.job), why, []),
        )
        self.started = time.time()
        self.live: dict[str, Submitted] = {}
        self.arrays: set[str] = set()  # ids of arrays of which every task is ours
        self.pace = Pace(float(self.workflow.remote_execution_settings.seconds_between_status_checks or 10))
        self.outage = ""
        self.ready.set()

    def run_job(self, job: Any) -> None:
        """Submit one job."""
        self.run_jobs([job])

    def run_jobs(self, jobs: list[Any]) -> None:
        """Submit jobs that are ready, equal ones together."""
        ready: list[Prepared] = []
        queue = cache(self._patient_look)  # once a round, and only if a job was submitted before
        for job in jobs:
            self.run_job_pre(job)
            try:
                shell = self.format_job_exec(job)
                prepared = prepare(job, shell, self.folder, self.cluster, self.settings)
                entry = self.registry.find(prepared.print.key)
                if entry is None:
                    ready.append(prepared)
                elif (view := queue()) is not None:
                    self._take(prepared, find(prepared, entry, view, self.started), ready)
                else:
                    raise RuntimeError("no answer to whether what was submitted before still runs")
            except ResourceError as error:
                self._report_error(SubmittedJobInfo(job), f"Its resources cannot be had: {error}", [])
            except Exception as error:
                words = f"It could not be submitted: {type(error).__name__}: {error}"
                self._report_error(SubmittedJobInfo(job), words, [])
        for batch in group(ready, self.settings.array_size if self.cluster.arrays else 1):
            self.submitter.submit(batch)

    def _patient_look(self) -> Mapping[str, Seen] | None:
        """Look at the queue, for as long as submitting is tried: not to know is to run something twice."""
        for number in range(self.settings.submit_retries + 1):
            known = self.registry.ids()
            view = self.cluster.look(known)
            if view is not None:
                return {**self.cluster.remembered([one for one in known if one not in view]), **view}
            self.logger.warning(f"{self.cluster.title} does not answer ({self.queue.trouble}); asking again")
            time.sleep(min(LONGEST_WAIT, 2.0 ** (number + 1)))
        return None

    def _take(self, prepared: Prepared, found: Attachment, ready: list[Prepared]) -> None:
        """Follow what an earlier Snakemake submitted, or put the job among those to submit."""
        title = f"{self.cluster.title} job {found.job_id} ({found.state})"
        if found.job_id and found.same:
            self.logger.info(f"Attached to {title}: {prepared.rule}")
            self._follow(prepared, found.job_id)
        elif found.job_id:
            self.logger.info(f"Cancelled {title}: {prepared.rule} with other {found.difference} than now")
            self.cluster.cancel([found.job_id])
            ready.append(prepared.after(found.job_id) if self.cluster.arrays else prepared)
        else:
            ready.append(prepared)

    def get_job_args(self, job: Any, **_: Any) -> str:
        """Return Snakemake's arguments on the node."""
        arguments = RealExecutor.get_job_args(self, job, cores=processors(job))
        return f"{arguments} {wait_for_inputs(job, self.folder)}"

    def additional_general_args(self) -> str:
        """Return what makes Snakemake's start on the node shorter: one job needs no optimal schedule."""
        return "--scheduler greedy"

    def _submitted(self, batch: Batch, job_id: str) -> None:
        """Follow the jobs of a batch that the cluster took."""
        rule, folder = batch.jobs[0].rule, os.path.relpath(batch.jobs[0].folder)
        array = len(batch.jobs) > 1
        if array:
            self.arrays.add(job_id)
            words = f"{len(batch.jobs)} jobs of {rule} as {self.cluster.title} array {job_id}"
        else:
            words = f"{rule} as {self.cluster.title} job {job_id}"
        log = f"; logs: {folder}/{job_id}_*" if self.cluster.logs else ""
        self.logger.info(f"Submitted {words}{log}")
        for index, one in enumerate(batch.jobs):
            self._follow(one, f"{job_id}_{index}" if array else job_id)

    def _follow(self, prepared: Prepared, job_id: str) -> None:
        info = SubmittedJobInfo(prepared.job, external_jobid=job_id, aux={"id": job_id})
        self.live[job_id] = Submitted(prepared, job_id, Path(paths(prepared.folder, job_id).stdout), info)
        self.pace.changed()
        self.report_job_submission(info)

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Look once for all jobs; yield those that go on."""
        self.ready.wait()
        if self.wait:
            self.submitter.submit_postponed()
        mine = [self.live[info.aux["id"]] for info in active_jobs if info.aux and info.aux["id"] in self.live]
        if not mine:
            return
        view = self._look(mine)
        for one in mine:
            try:
                ended = judge(one, view, self.cluster, self.settings, self.logger)
            except Exception as error:
                ended = Ended(False, f"its end could not be understood: {type(error).__name__}: {error}")
            if ended is None:
                yield one.info
            else:
                self._report(one, ended)

    def _look(self, mine: list[Submitted]) -> Mapping[str, Seen] | None:
        try:
            view = self.cluster.look([one.job_id for one in mine])
            if view is not None:
                forgotten = [one.job_id for one in mine if one.job_id not in view and one.ask_elsewhere()]
                view = {**self.cluster.remembered(forgotten), **view}
        except Exception as error:
            self.queue.trouble = str(error)
            view = None
        if view is None and not self.outage:
            self.outage = self.queue.trouble or "no answer"
            self.logger.warning(
                f"{self.cluster.title} does not answer ({self.outage}); jobs go on, asking again"
            )
        elif view is not None and self.outage:
            self.outage = ""
            self.logger.info(f"{self.cluster.title} answers again")
        return view

    def _report(self, one: Submitted, ended: Ended) -> None:
        self.live.pop(one.job_id, None)
        self.registry.ended([one.prepared.print.key])
        self.pace.changed()
        if ended.success:
            self._tidy(one)
            self.report_job_success(one.info)
            return
        state = f" ({ended.state}{f' on {ended.nodes}' if ended.nodes else ''})" if ended.state else ""
        words = f"{self.cluster.title} job {one.job_id}{state}: {ended.reason}"
        self._report_error(one.info, words, [str(one.log)] if one.log.exists() else [])

    @staticmethod
    def _tidy(one: Submitted) -> None:
        """Remove what a job that succeeded leaves beside its log."""
        base = f"{one.prepared.folder}/{one.job_id}"
        for ending in ("_submitted.pkl", "_0_result.pkl", "_restarts.json", "_stop"):
            with suppress(OSError):
                Path(base + ending).unlink(missing_ok=True)

    def _report_error(self, info: SubmittedJobInfo, words: str, logs: list[str]) -> None:
        if info.job.is_group():  # whose error message leaves this out
            self.logger.error(words)
        self.report_job_error(info, msg=f"{words}. ", aux_logs=logs)

    async def sleep(self) -> None:
        """Wait until the next look, or until nobody waits for it any more."""
        began = time.monotonic()
        while self.wait and time.monotonic() - began < self.pace.pause(self.queue.seconds):
            await asyncio.sleep(0.1)

    def cancel_jobs(self, active_jobs: Iterable[SubmittedJobInfo]) -> None:  # noqa: ARG002
        """End every job that runs or waits; the base class's list misses those that are being looked at."""
        self.wait = False
        self.submitter.drop_postponed()
        self._cancel(list(self.live))
        self.registry.ended([one.prepared.print.key for one in self.live.values()])

    def cancel(self) -> None:
        """End all jobs, those too that the controller took while their sbatch was being interrupted."""
        super().cancel()
        left = self.cluster.look([]) or {}
        self._cancel(
            [job_id for job_id, seen in left.items() if self.run in seen.comment and not seen.ending]
        )

    def _cancel(self, job_ids: list[str]) -> None:
        try:
            if job_ids:
                self.cluster.cancel(job_ids, {one.split("_")[0] for one in job_ids} & self.arrays)
        except Exception as error:
            self.logger.error(f"Cancelling failed ({error}); look for jobs of yours with squeue --me.")
