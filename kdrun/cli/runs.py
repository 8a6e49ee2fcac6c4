"""A run or a sweep: what the user typed, to jobs, to runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun import __version__
from kdrun.cli.options import refuse, run_parser

if TYPE_CHECKING:
    from kdrun.config.preflight import Job
    from kdrun.experiment.runner import Outcome, Runner


def runs_main(words: Sequence[str]) -> int:
    """Checks all jobs, runs them, and returns the exit code."""
    options = run_parser().parse_intermixed_args(words)
    if options.version:
        print(f"kdrun {__version__} ({Path(__file__).parents[1]})")
        return 0
    from kdrun.config.compose import ConfigError

    try:
        jobs, choices = _jobs(options)
    except ConfigError as error:
        return refuse(error.problems)
    from kdrun.experiment.reporting import log, set_up_console

    set_up_console()
    for notice in dict.fromkeys(notice for job in jobs for notice in job.notices):
        log.info("%s", notice)
    if options.dry_run:
        from kdrun.experiment.dry_run import Estimator, with_teachers

        estimator = Estimator(jobs[0].device)
        for spec, role in with_teachers([job.spec for job in jobs]):
            log.info("%s", estimator.line(spec, role=role))
        return 0
    if options.multirun:
        return _run_sweep(jobs, choices)
    return _run_one(jobs[0])


def _jobs(options: argparse.Namespace) -> tuple[list[Job], list[dict[str, str]]]:
    """All jobs of a command line, checked, and what each chooses of the swept keys.

    Raises:
        ConfigError: with every problem of every job.
    """
    from kdrun.config.compose import (
        ConfigError,
        compose_job,
        expand,
        hydra_session,
    )

    problems: list[str] = []
    jobs, choices = [], []
    fitting: set[str] = set()
    with hydra_session():
        lists = expand(options.overrides, multirun=options.multirun, problems=problems)
        swept = [texts[0].partition("=")[0] for texts in zip(*lists, strict=True) if len(set(texts)) > 1]
        for job_overrides in lists:
            try:
                config = compose_job(job_overrides, problems, extra=options.config_dir)
                from kdrun.config.preflight import check_job  # torch is needed from here on

                jobs.append(check_job(config, job_overrides, fitting))
            except ConfigError as error:
                problems += error.problems
            pairs = dict(text.partition("=")[::2] for text in job_overrides)
            choices.append({key: pairs[key] for key in swept})
    for what in ("output_root", "data_root", "device", "threads"):
        if len({getattr(job, what) for job in jobs}) > 1:
            problems.append(f"the jobs of a sweep must share one {what}")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return jobs, choices


def runner_for(jobs: Sequence[Job]) -> Runner:
    """One runner for jobs that share where they run; what they do not share is refused before."""
    from kdrun.experiment.runner import Runner
    from kdrun.experiment.store import Store

    weight_files = {digest: path for job in jobs for digest, path in job.weight_files.items()}
    first = jobs[0]
    return Runner(
        Store(first.output_root),
        device=first.device,
        data_root=first.data_root,
        threads=first.threads,
        weight_files=weight_files,
    )


def _run_one(job: Job) -> int:
    from kdrun.analysis.aggregate import SweepRun
    from kdrun.analysis.sweep import draw_run, run_table
    from kdrun.experiment.reporting import log

    runner = runner_for([job])
    outcome, error = execute(runner, job)
    if outcome is None:
        log.error("kdrun: %s", error)
        return 1
    finished = SweepRun({}, outcome.run, runner.teachers(job.spec))
    if outcome.reused:
        log.info("already finished, nothing to do")
    log.info("%s", run_table(finished))
    for picture in draw_run(finished):
        log.info("picture: %s", picture)
    log.info("result: %s", outcome.run.result_path)
    return 0


def execute(runner: Runner, job: Job) -> tuple[Outcome | None, str | None]:
    """One run to its end; a failure is told in a line, its traceback is in the run's kdrun.log."""
    try:
        return runner.execute(job.spec, config=job.config), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def _run_sweep(jobs: list[Job], choices: list[dict[str, str]]) -> int:
    from kdrun.analysis.aggregate import SweepRun
    from kdrun.analysis.sweep import summarise, sweep_directory
    from kdrun.experiment.reporting import log

    runner = runner_for(jobs)
    log.info("%s", runner.plan([job.spec for job in jobs]))
    runs: list[SweepRun] = []
    for number, (job, choice) in enumerate(zip(jobs, choices, strict=True), start=1):
        outcome, error = execute(runner, job)
        spoken = " ".join(f"{key}={value}" for key, value in choice.items())
        runs.append(SweepRun(choice, runner.store.run(job.spec), runner.teachers(job.spec), error))
        if outcome is None:
            log.error("[%d/%d] %s: failed: %s", number, len(jobs), spoken, error)
        else:
            top1, reused = outcome.result["test"]["last"]["top1"], " (finished before)" if outcome.reused else ""
            log.info("[%d/%d] %s: top-1 %.2f %%%s", number, len(jobs), spoken, top1, reused)
    directory = sweep_directory(jobs[0].output_root, runs)
    log.info("\n%s", summarise(directory, runs))
    for picture in sorted(directory.glob("*.png")):
        log.info("picture: %s", picture)
    failed = sum(run.error is not None for run in runs)
    if failed:
        log.error("%d of %d runs failed; the same command runs only what is missing", failed, len(runs))
    log.info("result: %s", directory / "summary.csv")
    return 1 if failed else 0
