"""The executor: Snakemake's ready jobs in, their ends out."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

from snakemake_executor_plugin_submitit import private
from snakemake_executor_plugin_submitit.clusters import Cluster, Debug, Local, State, array_of, task
from snakemake_executor_plugin_submitit.jobs import Batch, Job, Preparation, group, wait_for_inputs
from snakemake_executor_plugin_submitit.report import Report, duration, error_message, remove_old, tidy
from snakemake_executor_plugin_submitit.resources import ResourceError
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.submissions import LONGEST_WAIT, Registry, Submitter, find
from snakemake_executor_plugin_submitit.verdict import Ended, News, verdict

GRACE = 5.0  # seconds for an answer that nobody waits for any more, but the cancelling
CLUSTERS: dict[str, type[Cluster]] = {"slurm": Slurm, "local": Local, "debug": Debug}


class Executor(RemoteExecutor):
    """Submits jobs and follows them.

    Two threads meet here: Snakemake's scheduler calls `run_jobs` and `cancel_jobs`, the base class's own
    thread calls `check_active_jobs`. Neither may raise, or Snakemake cancels everything.
    """

    def __init__(self, workflow: Any, logger: Any) -> None:
        self.ready = threading.Event()  # the base class starts its thread before it calls `__post_init__`
        super().__init__(workflow, logger)

    def __post_init__(self) -> None:
        if self.workflow.remote_execution_settings.immediate_submit:
            raise WorkflowError("--immediate-submit leaves nobody who follows the jobs; this plugin does.")
        self.settings: ExecutorSettings = self.workflow.executor_settings
        self.folder = Path(self.settings.folder).absolute()
        if self.settings.cluster == "slurm" and shutil.which("sbatch") is None:
            raise WorkflowError(
                "There is no SLURM here (no sbatch in PATH). Run where jobs are submitted, or with "
                "--submitit-cluster local."
            )
        self.cluster = CLUSTERS[self.settings.cluster](self.settings)
        name = private.digest([private.targets_of(self.workflow)])
        self.registry = Registry(self.folder / "submissions", name, self.logger)
        self.run = uuid4().hex[:12]  # the name of this Snakemake, in the comment of its jobs
        self.preparation = Preparation(self.folder, self.cluster.longest, self.settings, self.logger)
        self.submitter = Submitter(
            *(self.cluster, self.registry, self.run, self.settings.submit_retries, self.logger),
            submitted=self._submitted,
            refused=lambda job, why: self._report_error(job.info, f"{job.label}: {why}"),
        )
        self.started = time.time()
        self.live: dict[str, Job] = {}
        self.arrays: set[str] = set()  # ids of arrays of which every task is ours
        self.news = News(self.cluster, self.logger)
        self.report = Report()
        self.changed = time.monotonic()  # when a job last came or went
        self.accounted = 0.0  # when the accounting was last asked
        self.outage = ""
        # Here, where nobody changes the jobs of the workflow yet.
        self.done, self.total = 0, private.jobs_elsewhere(self.workflow)
        self.wanted = private.wanted_keys(self.workflow)
        self.ready.set()

    def printjob(self, job: Any) -> None:
        """Say nothing that `_submitted` will say in a line, except to those that wait for events."""
        if private.shown_to_plugins(self.workflow):
            super().printjob(job)

    def run_job(self, job: Any) -> None:
        self.run_jobs([job])

    def run_jobs(self, jobs: list[Any]) -> None:
        """Submit jobs that are ready, equal ones together."""
        ready: list[Job] = []
        look = cache(self._patient_look)  # once a round, and only if a job was submitted before
        for one in jobs:
            try:
                self.run_job_pre(one)
                job = self._attached(self.preparation(one, self.format_job_exec(one)), look)
                if job is not None:
                    ready.append(job)
            except Exception as error:
                kind = "" if isinstance(error, ResourceError) else f"{type(error).__name__}: "
                words = f"{private.label(one)} could not be submitted: {kind}{error}"
                self._report_error(SubmittedJobInfo(one), words)
        if ready:
            ready.sort(key=lambda job: (-job.info.job.priority, job.label))
            self.submitter.submit(group(ready, self.cluster.arrays))

    def _patient_look(self) -> Mapping[str, State] | None:
        """Look at the queue, for as long as submitting is tried: not to know is to run something twice."""
        for number in range(self.settings.submit_retries + 1):
            known = self.registry.ids()
            view = self.cluster.look(known)
            if view is not None:
                return {**self.cluster.remembered([one for one in known if one not in view]), **view}
            self.logger.warning(f"{self.cluster.title} does not answer ({self.cluster.trouble})")
            time.sleep(min(LONGEST_WAIT, 2.0 ** (number + 1)))
        return None

    def _attached(self, job: Job, look: Callable[[], Mapping[str, State] | None]) -> Job | None:
        """Follow what an earlier Snakemake submitted; else return what to submit."""
        entry = self.registry.find(job.key)
        if entry is None:
            return job
        view = look()
        if view is None:
            raise ResourceError("nobody says whether what was submitted before still runs")
        found = find(job, entry, view, self.started)
        if found is None:
            return job
        title = f"{self.cluster.title} job {found.job_id} ({found.state})"
        if found.difference:
            self.logger.info(f"Cancelled {title}: {job.label} with other {found.difference} than now")
            self.cluster.cancel([found.job_id])
            return job.asking(dependency=f"afterany:{found.job_id.partition('@')[0]}")
        self.logger.info(f"Attached to {title}: {job.label}")
        self._follow(job, found.job_id)
        return None

    def get_job_args(self, job: Any, **_: Any) -> str:
        """Return Snakemake's arguments on the node, where it may use what the job asks for, not all."""
        cores = max(job.threads, int(job.resources.get("cpus_per_task") or 0), 1)
        return f"{RealExecutor.get_job_args(self, job, cores=cores)} {wait_for_inputs(job, self.folder)}"

    def additional_general_args(self) -> str:
        """Return what makes Snakemake's start on the node shorter: one job needs no optimal schedule."""
        return "--scheduler greedy"

    def _submitted(self, batch: Batch, job_id: str) -> None:
        array = len(batch.jobs) > 1
        if array:
            self.arrays.add(job_id)
        for index, job in enumerate(batch.jobs):
            id_ = task(job_id, index if array else None)
            self.logger.info(job.line(f"submitted as {self.cluster.title} job {id_}"))
            self._follow(job, id_)

    def _follow(self, job: Job, job_id: str) -> None:
        job.info.external_jobid = job_id
        job.since = self.changed = time.monotonic()
        self.live[job_id] = job
        self.report_job_submission(job.info)

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        self.ready.wait()
        first_look = self.started + self.settings.init_seconds_before_status_checks
        ended: dict[str, Ended] = {}
        try:
            if self.wait and time.time() >= first_look:
                ended = self._look()
        except Exception as error:
            self.logger.warning(f"{self.cluster.title}: {type(error).__name__}: {error}; asking again")
        self.registry.ended([self.live[job_id].key for job_id in ended])
        for info in active_jobs:
            if info.external_jobid in ended:
                self._report(self.live.pop(info.external_jobid), ended[info.external_jobid])
            elif info.external_jobid in self.live:
                yield info

    def _look(self) -> dict[str, Ended]:
        """Return how jobs ended, those that did."""
        if self.wanted and self.registry.cancel_unwanted(self.cluster, self.live, *self.wanted):
            self.wanted = None
        self.submitter.send_due()
        mine = list(self.live.values())
        if not mine:
            return {}
        view = self._view(mine)
        ended = {}
        for job in mine:
            try:
                end = verdict(job, view, self.cluster, self.settings, self.logger)
            except Exception as error:
                end = Ended(False, f"its end could not be understood: {type(error).__name__}: {error}")
            if end is not None:
                ended[job.job_id] = end
        for job, why in self.news.look(mine, view) if view is not None else []:
            self.cluster.cancel([job.job_id])
            ended[job.job_id] = Ended(False, why, "PENDING")
        return ended

    def _view(self, mine: list[Job]) -> Mapping[str, State] | None:
        view = self.cluster.look([job.job_id for job in mine])
        if view is None:
            if not self.outage:
                self.outage = self.cluster.trouble or "no answer"
                self.logger.warning(f"{self.cluster.title} does not answer ({self.outage}); jobs go on")
            return None
        if self.outage:
            self.outage = ""
            self.logger.info(f"{self.cluster.title} answers again")
        if time.monotonic() - self.accounted < 10:
            return view
        self.accounted = time.monotonic()
        return {**self.cluster.remembered([job.job_id for job in mine if job.job_id not in view]), **view}

    def _report(self, job: Job, ended: Ended) -> None:
        self.changed = time.monotonic()
        self.submitter.places_free()
        self.report.add(job, ended)
        if ended.success:
            seconds = ended.used.get("seconds") or time.monotonic() - job.since
            self.done += len(private.single_jobs(job.info.job))
            count = f"{self.done} of {max(self.done, self.total)}"
            self.logger.info(job.line(f"done after {duration(seconds)} ({job.job_id}); {count}"))
            tidy(job, self.settings.keep_successful_logs)
            self.report_job_success(job.info)
            return
        self.preparation.failed(job, ended.nodes or job.running)
        state = f" ({ended.state}{f' on {ended.nodes}' if ended.nodes else ''})" if ended.state else ""
        words = f"{job.label}, {self.cluster.title} job {job.job_id}{state}: {ended.reason}"
        self._report_error(job.info, words, job.log)

    def _report_error(self, info: SubmittedJobInfo, words: str, log: Path | None = None) -> None:
        """Say why a job failed, in a few lines; Snakemake's own message has a job's whole command in it."""
        logs = [Path(str(file)) for file in info.job.log] if not info.job.is_group() else []
        if log is not None and log.exists():
            logs.append(Path(os.path.relpath(log)))
        self.logger.error(error_message(words, logs))
        if private.shown_to_plugins(self.workflow):
            self.print_job_error(info, f"{words}. ", aux_logs=list(map(str, logs)))
        self.workflow.scheduler.error_callback(info.job)

    async def sleep(self) -> None:
        """Wait until the next look, or until nobody waits for it any more."""
        began = time.monotonic()
        longest = self.workflow.remote_execution_settings.seconds_between_status_checks or 10
        while self.wait and (now := time.monotonic()) - began < self.cluster.pause(
            now - self.changed, longest
        ):
            await asyncio.sleep(0.1)

    def shutdown(self) -> None:
        """End following, say what failed and what was used, and remove old logs."""
        super().shutdown()
        if failed := self.report.failed():
            self.logger.error(failed)
        if self.settings.efficiency_report and self.report.rows:
            folder = Path(self.settings.efficiency_report_path or self.folder)
            path = folder / f"efficiency_report_{self.run}.csv"
            with suppress(OSError):  # a full disk
                self.logger.info(self.report.finish(self.cluster, path, self.settings.efficiency_threshold))
        remove_old(self.folder, self.settings.delete_logfiles_older_than)

    def cancel_jobs(self, active_jobs: Iterable[SubmittedJobInfo]) -> None:  # noqa: ARG002
        """End every job that runs or waits; the base class's list misses those that are being looked at."""
        self.wait = False
        self.cluster.patience = GRACE
        self.submitter.stop()
        if self.live:
            self.logger.info(f"{self.cluster.title}: cancelling {len(self.live)} jobs")
        self._cancel(list(self.live))
        self.registry.ended([job.key for job in list(self.live.values())])

    def cancel(self) -> None:
        """End all jobs, those too that the controller took while their sbatch was being interrupted."""
        super().cancel()
        left = self.cluster.look([]) or {}
        self._cancel([id_ for id_, state in left.items() if self.run in state.comment and not state.ended])

    def _cancel(self, job_ids: list[str]) -> None:
        try:
            if job_ids:
                self.cluster.cancel(job_ids, {array_of(one) for one in job_ids} & self.arrays)
        except Exception as error:
            self.logger.error(f"Cancelling failed ({error}); look for jobs of yours with squeue --me.")
