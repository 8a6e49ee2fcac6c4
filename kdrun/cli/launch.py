"""Runs as jobs of Hydra's launchers (joblib, submitit, Ray): one job for each run, after the runs that it needs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.plugins.launcher import Launcher

from kdrun.analysis.sweep import obstacle_to
from kdrun.cli.job import Task, write_request
from kdrun.cli.launchers import HERE, SLURM, has_gpus, hydra_launcher, launch
from kdrun.config.compose import hydra_session
from kdrun.config.preflight import Job
from kdrun.config.search import LAUNCHER, Search
from kdrun.experiment.attempt import Request
from kdrun.experiment.runner import Runner
from kdrun.experiment.runtime import Runtime
from kdrun.experiment.sizes import threads_for
from kdrun.files import DamagedError
from kdrun.log import counted, log, set_up_console
from kdrun.spec.spec import Spec
from kdrun.stopping import Stopped
from kdrun.store.run import Run
from kdrun.store.store import Store

JOBS = "jobs"
"""The directory of the jobs' requests and logs, in that of a sweep or table."""

POLL_SECONDS = 2.0
MOST_IN_ARRAY = 1000
"""Jobs of a Slurm array: one less than its MaxArraySize is by default."""


def launched(
    jobs: Sequence[Job], runner: Runner, search: Search, directory: Path, requests: Sequence[Request]
) -> dict[str, str]:
    """Executes runs as jobs of a launcher, and logs a line for each.

    Args:
        jobs: the checked runs.
        runner: of this process; it reads runs, and trains none.
        search: the launcher with its options.
        directory: of the sweep or table; the jobs' files are in `JOBS`.
        requests: the runs.

    Returns:
        Error messages by run_id, of runs that are not finished.
    """
    weight_files = {digest: path.absolute() for job in jobs for digest, path in job.weight_files.items()}
    place = (directory / JOBS).absolute()
    return Jobs(search, runner, jobs[0].runtime, weight_files, place).execute(requests)


@dataclass(frozen=True)
class Jobs:
    """A launcher for the runs of a command.

    Attributes:
        search: the launcher with its options.
        runner: of this process; it reads runs, and trains none.
        runtime: of the runs.
        weight_files: the user's own weights, by SHA-256.
        directory: of the jobs' requests and logs.
    """

    search: Search
    runner: Runner
    runtime: Runtime
    weight_files: Mapping[str, Path]
    directory: Path

    def execute(self, requests: Sequence[Request]) -> dict[str, str]:
        """Executes runs, and those that they need before them, and logs a line for each.

        Returns:
            Error messages by run_id, of runs that are not finished.
        """
        store = self.runner.store
        numbered = [
            dataclasses.replace(request, number=number, total=len(requests))
            for number, request in enumerate(requests, start=1)
        ]
        waves, errors = _waves(numbered, store), {}
        missing = {request.spec.run_id for wave in waves for request in wave}
        for request in numbered:
            if request.spec.run_id not in missing:
                _report(request, store.run(request.spec), before=True)
        self._write_requests([request for wave in waves for request in wave])
        for wave in waves:
            ready = [request for request in wave if all(store.run(spec).finished for spec in request.spec.before)]
            if ready:
                self._execute_wave(ready)
            for request in wave:
                if error := obstacle_to(store, request.spec):
                    errors[request.spec.run_id] = error
                    log.error("%s failed: %s", _title(request), error)
        return {
            request.spec.run_id: errors[request.spec.run_id] for request in numbered if request.spec.run_id in errors
        }

    def _write_requests(self, requests: Sequence[Request]) -> None:
        """Writes all requests before the first job: `kdrun summarize` reads the specs of waiting runs from them."""
        if requests:
            self.directory.mkdir(parents=True, exist_ok=True)
        for request in requests:
            write_request(self.directory, request)

    def _execute_wave(self, requests: Sequence[Request]) -> None:
        """Executes runs that need none of each other."""
        options, threads, at_once = self._settled([request.spec for request in requests])
        on_gpu = has_gpus(self.search, self.runtime)
        task = Task(self.directory, os.getcwd(), self.runtime, self.weight_files, threads, on_gpu)
        teachers = sum(request.role == "teacher" for request in requests)
        counts = ((teachers, "teacher"), (len(requests) - teachers, "run"))
        listed = ", ".join(counted(count, noun) for count, noun in counts if count)
        log.info("%s=%s: %s; logs in %s", LAUNCHER, self.search.launcher, listed, self.directory)
        with hydra_session(), self._reporting(requests):
            launcher = hydra_launcher(self.search.launcher, options, task, self.directory)
            try:
                for first in range(0, len(requests), at_once):
                    self._launch(launcher, requests[first : first + at_once])
            except Stopped:
                if self.search.launcher == SLURM:
                    log.info("the jobs that have been submitted go on")
                raise
        set_up_console()  # a launcher sets up logging anew

    def _launch(self, launcher: Launcher, requests: Sequence[Request]) -> None:
        """Launches jobs until each has ended.

        A killed process ends the other jobs of joblib and Ray: the rest is launched again, first the runs that were
        not begun, then each of the others, of which one was killed, alone.
        """
        store = self.runner.store
        before = {request.spec.run_id: store.run(request.spec).status() for request in requests}

        def has_begun(request: Request) -> bool:
            return store.run(request.spec).status() != before[request.spec.run_id]

        def has_ended(request: Request) -> bool:
            run = store.run(request.spec)
            return run.finished or (has_begun(request) and run.state in ("failed", "diverged"))

        left, suspects = list(requests), []
        while left and not launch(launcher, left):
            left = [request for request in left if not has_ended(request)]
            begun = [request for request in left if has_begun(request)]
            if not begun:
                return
            suspects += begun
            left = [request for request in left if request not in begun]
        for request in suspects:
            launch(launcher, [request])

    def _settled(self, specs: Sequence[Spec]) -> tuple[dict[str, Any], int | None, int]:
        """The launcher's options, the threads that a run can have (None: all of its job), and the jobs at once."""
        options, name, device = dict(self.search.options), self.search.launcher, self.runtime.device
        if name not in HERE:
            return options, None, MOST_IN_ARRAY
        threads = torch.get_num_threads()
        most = self.runtime.threads or max(threads_for(spec, device, threads) for spec in specs)
        fitting = max(1, threads // most) if device.type == "cpu" else 1
        if name != "joblib":
            options["gpus_per_node"] = options["gpus_per_node"] or torch.cuda.device_count()
            return options, threads, fitting
        if options["n_jobs"] is not None:
            threads = max(1, threads // options["n_jobs"])
        options["n_jobs"] = options["n_jobs"] or fitting
        return options, threads, len(specs)

    @contextlib.contextmanager
    def _reporting(self, requests: Sequence[Request]) -> Iterator[None]:
        """In this context a line is logged for each run that has finished."""
        store, ended, reported = self.runner.store, threading.Event(), set()

        def report() -> None:
            for request in requests:
                if request.spec.run_id not in reported and store.run(request.spec).finished:
                    reported.add(request.spec.run_id)
                    with contextlib.suppress(DamagedError):  # an error line follows
                        _report(request, store.run(request.spec))

        def watch() -> None:
            while not ended.wait(POLL_SECONDS):
                report()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        report()


def _waves(requests: Sequence[Request], store: Store) -> list[list[Request]]:
    """The runs to execute: first those that need no other, then those that need only the first, and so on."""
    pending = [request for request in requests if not _is_done(store.run(request.spec))]
    every = {spec.run_id: Request(spec, role="teacher") for each in pending for spec in each.spec.all_before()}
    every = {run_id: each for run_id, each in every.items() if not _is_done(store.run(each.spec))}
    every |= {request.spec.run_id: request for request in pending}
    waves: dict[int, list[Request]] = {}
    for request in every.values():
        waves.setdefault(_depth(request.spec), []).append(request)
    return [waves[depth] for depth in sorted(waves)]


def _depth(spec: Spec) -> int:
    return max((1 + _depth(each) for each in spec.before), default=0)


def _is_done(run: Run) -> bool:
    """Whether a run has its result and its weights; where they are damaged, its job reports that."""
    try:
        return run.finished and run.weights_problem() is None
    except DamagedError:
        return False


def _title(request: Request) -> str:
    """A run in the log."""
    name = request.label or f"{request.role} {request.spec.student.name}"
    return f"{request.place} {name}:" if request.place else f"{name}:"


def _report(request: Request, run: Run, *, before: bool = False) -> None:
    """Logs the accuracy of a finished run."""
    more = f" (finished before: {run.origin()})" if before else ""
    log.info("%s top-1 %.2f %%%s", _title(request), run.result()["test"]["last"]["top1"], more)
