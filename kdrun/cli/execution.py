"""Execution of checked jobs, shared by runs, sweeps and tables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from kdrun.files import DamagedError
from kdrun.redaction import redacted
from kdrun.stopping import DeviceLost

if TYPE_CHECKING:
    from kdrun.config.preflight import Job
    from kdrun.experiment.attempt import Request
    from kdrun.experiment.runner import Runner
    from kdrun.experiment.runtime import Runtime
    from kdrun.spec.spec import Spec


def runner_for(jobs: Sequence[Job]) -> Runner:
    """One runner for jobs with one runtime, which has been checked."""
    from kdrun.experiment.runner import Runner
    from kdrun.experiment.side_by_side import SideBySideRunner
    from kdrun.store.store import Store

    weight_files = {digest: path for job in jobs for digest, path in job.weight_files.items()}
    runtime = jobs[0].runtime
    kind = SideBySideRunner if runtime.devices else Runner
    return kind(Store(runtime.output_root), runtime, weight_files=weight_files)


def ready_runner(jobs: Sequence[Job]) -> Runner:
    """The runner of jobs that are about to be executed; prints the notice of `report_bf16`.

    Raises:
        ValueError: the output root cannot be written.
    """
    runner = runner_for(jobs)
    runner.store.check_writable(job.spec for job in jobs)
    report_bf16((job.spec for job in jobs if not runner.store.run(job.spec).finished), jobs[0].runtime)
    return runner


def report_bf16(pending: Iterable[Spec], runtime: Runtime) -> None:
    """Prints a notice if runs that are to be trained would be faster in bf16 here."""
    from kdrun.experiment.bf16_notice import bf16_notice
    from kdrun.log import log

    if notice := bf16_notice(pending, runtime):
        log.info("%s", notice)


@contextlib.contextmanager
def ending_with_the_device() -> Iterator[None]:
    """In this context a lost device ends the command with one error line and exit code 1; other runs stay pending."""
    from kdrun.log import log

    try:
        yield
    except DeviceLost as lost:
        log.error("kdrun: %s; the same command resumes all of it", lost)
        raise SystemExit(1) from lost


def execute(runner: Runner, requests: Sequence[Request], *, before: int = 0, total: int) -> dict[str, str]:
    """Executes runs and logs a line for each; tracebacks are in their kdrun.log.

    Args:
        runner: executes them.
        requests: the runs.
        before: the number of the command's runs logged before.
        total: the number of the command's runs.

    Returns:
        Error messages by run_id.
    """
    from tqdm import tqdm

    from kdrun.log import log

    errors = {}
    executed = runner.execute_all(requests, before=before, total=total)
    with ending_with_the_device(), contextlib.closing(executed):
        for request, ended in executed:
            prefix = f"{request.place} {request.label}:"
            if isinstance(ended, Exception):
                errors[request.spec.run_id] = redacted(f"{type(ended).__name__}: {ended}")
                log.error("%s failed: %s", prefix, errors[request.spec.run_id])
            else:
                left = runner.forecast.left()
                more = f" (finished before: {ended.run.origin()})" if ended.reused else ""
                more += f", {tqdm.format_interval(left)} left for all runs" if left is not None else ""
                log.info("%s top-1 %.2f %%%s", prefix, ended.result["test"]["last"]["top1"], more)
    return errors


@contextlib.contextmanager
def reporting_damage() -> Iterator[list[Exception]]:
    """In this context a damaged or unwritable file of finished runs is one error line, and is added to the list."""
    from kdrun.log import log

    failed: list[Exception] = []
    try:
        yield failed
    except (DamagedError, OSError) as error:
        log.error("kdrun: no summary: %s", error)
        failed.append(error)
