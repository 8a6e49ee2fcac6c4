"""Runs and sweeps: from the command line to checked jobs to finished runs."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun import __version__
from kdrun.cli.execution import ending_with_the_device, execute, ready_runner, reporting_damage
from kdrun.cli.options import misused, refuse
from kdrun.escaping import printable
from kdrun.files import dry_run, write_atomically

if TYPE_CHECKING:
    from kdrun.config.command_line import Command
    from kdrun.config.preflight import Job
    from kdrun.config.search import Search
    from kdrun.experiment.runner import Runner


def runs_main(options: argparse.Namespace) -> int:
    """Checks all jobs, runs them, and returns the exit code."""
    if options.version:
        print(f"kdrun {__version__} ({Path(__file__).parents[1]})")
        return 0
    with dry_run() if options.dry_run else contextlib.nullcontext():
        checked = checked_jobs(options)
        if isinstance(checked, list):
            return refuse(checked)
        from kdrun.config.search import BASIC
        from kdrun.log import set_up_console

        set_up_console()
        command, jobs, choices = checked
        report_notices(jobs, _about_sweep(jobs, choices))
        if options.dry_run:
            return estimate(jobs)
        try:
            runner = ready_runner(jobs)
        except ValueError as error:
            return refuse([str(error)])
        if command.search.sweeper != BASIC:
            from kdrun.cli.hydra_main import search_main

            return search_main(command, options)
        return _run_sweep(runner, jobs, choices, command.search) if options.multirun else run_one(runner, jobs[0])


def checked_jobs(options: argparse.Namespace) -> tuple[Command, list[Job], list[dict[str, str]]] | list[str]:
    """The overrides of a command line, its jobs, and the swept keys and values of each; or every problem of any."""
    from kdrun.config.command_line import read_command
    from kdrun.config.compose import ConfigError, hydra_session
    from kdrun.config.search import BASIC

    problems = misused(options)
    try:
        with hydra_session():
            command = read_command(options.overrides, problems, multirun=options.multirun, extra=options.config_dir)
            jobs, choices = _jobs(command, options, problems)
            if jobs and command.search.launcher != BASIC:
                from kdrun.cli.launchers import launcher_obstacles

                problems += launcher_obstacles(command.search, jobs[0].runtime)
    except ConfigError as error:
        problems += error.problems
    return list(dict.fromkeys(problems)) or (command, jobs, choices)


def report_notices(jobs: Sequence[Job], others: Sequence[str] = ()) -> None:
    """Prints the notices of jobs, and others, each once."""
    from kdrun.log import log

    for notice in dict.fromkeys([*(notice for job in jobs for notice in job.notices), *others]):
        log.info("%s", notice)


def estimate(jobs: Sequence[Job]) -> int:
    """Prints what the runs of a dry run would cost."""
    from kdrun.experiment.dry_run import Estimator, with_teachers
    from kdrun.log import log

    every = with_teachers([job.spec for job in jobs])
    estimator = Estimator((spec for spec, _ in every), jobs[0].runtime.device, jobs[0].runtime.threads)
    for spec, role in every:
        log.info("%s", estimator.line(spec, role=role))
    log.info("%s", estimator.basis())
    return 0


def _jobs(command: Command, options: argparse.Namespace, problems: list[str]) -> tuple[list[Job], list[dict[str, str]]]:
    """The jobs of a command line, and the swept keys and values of each; within a session.

    For a sweeper that draws its values, these are two jobs that it could begin with.

    Args:
        command: the overrides.
        options: the flags.
        problems: a line is added for each problem of any job.
    """
    from tqdm import tqdm

    from kdrun.config.command_line import expand, first_jobs
    from kdrun.config.compose import ConfigError, compose_job, hydra_overrides
    from kdrun.config.search import BASIC

    own, extra = command.search.sweeper == BASIC, options.config_dir
    overrides = command.overrides if own else hydra_overrides(*command.overrides)
    if own:
        lists = expand(overrides, multirun=options.multirun, problems=problems, extra=extra)
    else:
        lists = first_jobs(overrides, problems, extra=extra)
    swept = [texts[0].partition("=")[0] for texts in zip(*lists, strict=True) if len(set(texts)) > 1]
    jobs, choices = [], []
    for job_overrides in tqdm(lists, "checking jobs", delay=1, leave=False, disable=None):  # on a terminal only
        try:
            config = compose_job(job_overrides, problems, extra=extra, search=command.search)
            if problems and _is_default(options, problems):
                break
            from kdrun.config.preflight import check_job  # torch is needed from here on

            jobs.append(check_job(config, job_overrides, complete=not problems))
        except ConfigError as error:
            problems += error.problems
        pairs = dict(text.partition("=")[::2] for text in job_overrides)
        choices.append({key: pairs[key] for key in swept})
    if own and len(jobs) > 1:
        problems += not_shared(jobs)
    elif not own and any(job.evaluation for job in jobs):
        problems.append("evaluation: has an effect on kdrun's own sweep only; evaluate the finished runs afterwards")
    if not own and any(job.runtime.devices for job in jobs):
        problems.append("runtime.devices: has an effect on kdrun's own sweep only; a launcher places its jobs itself")
    return jobs, choices


def _is_default(options: argparse.Namespace, problems: Sequence[str]) -> bool:
    """Whether nothing is left to check: every override has a problem, and without them the config is kdrun's own."""
    from kdrun.config.quoting import parsed

    faulty = (any(said.startswith(f"{text}:") for said in problems) or not parsed(text) for text in options.overrides)
    return options.config_dir is None and all(faulty)


def not_shared(jobs: Sequence[Job]) -> list[str]:
    """A problem for each setting that the jobs of kdrun's own sweep must share and do not."""
    from kdrun.experiment.datasets import PLACES
    from kdrun.experiment.runtime import Runtime

    problems = []
    for what in (field.name for field in dataclasses.fields(Runtime)):
        if len({getattr(job.runtime, what) for job in jobs}) > 1:
            place = f"place of the data (of dataset: {', '.join(PLACES)})"
            of_data = {"data_root": "dataset.root", "places": place, "resident": "dataset.resident"}
            key = of_data.get(what, f"runtime.{what}")
            problems.append(f"the jobs of a sweep must share one {key}")
    if len({job.evaluation for job in jobs}) > 1:
        problems.append("the jobs of a sweep must share one evaluation")
    return problems


def _about_sweep(jobs: Sequence[Job], choices: Sequence[Mapping[str, str]]) -> list[str]:
    """The methods' notices about their swept options."""
    from kdrun.spec.components import all_options, method_class

    settings: dict[tuple[Any, int, str], list[dict[str, Any]]] = {}
    for job, choice in zip(jobs, choices, strict=True):
        for key in choice:
            group, _, option = key.partition(".")
            if group == "method" and option:
                place = (method_class(job.spec.method), job.spec.dataset.num_classes, option)
                settings.setdefault(place, []).append(all_options(job.spec.method))
    found = (kind.about_sweep(option, options, classes) for (kind, classes, option), options in settings.items())
    return [notice for notice in found if notice]


def run_one(runner: Runner, job: Job) -> int:
    from kdrun.analysis.aggregate import SweepRun
    from kdrun.analysis.sweep import draw_run, run_table
    from kdrun.experiment.attempt import Request
    from kdrun.log import log

    with ending_with_the_device():
        (ended,) = runner.execute_together([Request(job.spec, job.config)])
    if isinstance(ended, Exception):
        log.error("kdrun: %s: %s", type(ended).__name__, ended)
        return 1
    finished = SweepRun({}, ended.run, runner.teachers(job.spec))
    if ended.reused:
        log.info("already finished, nothing to do: %s", ended.run.origin())
    failures = 0
    with reporting_damage() as damaged:
        log.info("%s", run_table(finished))
        if job.evaluation:
            from kdrun.cli.evaluate import evaluated

            text, failures = evaluated(runner, {job.spec.student.name: [job.spec]}, job.evaluation)
            log.info("\n%s", text)
        for picture in draw_run(finished):
            log.info("picture: %s", picture)
    log.info("result: %s", ended.run.result_path)
    return 1 if damaged or failures else 0


def _label(choice: Mapping[str, str]) -> str:
    """The swept keys and values of a job, in one line."""
    return printable(" ".join(f"{key}={value}" for key, value in choice.items()))


def _run_sweep(runner: Runner, jobs: list[Job], choices: list[dict[str, str]], search: Search) -> int:
    from kdrun.analysis.aggregate import SweepRun, group_by_seed
    from kdrun.analysis.sweep import NOT_BEGUN, begin_summary, summarise, sweep_directory
    from kdrun.experiment.attempt import Request
    from kdrun.log import log

    log.info("%s", runner.plan([job.spec for job in jobs]))
    requests = {
        job.spec.run_id: Request(job.spec, job.config, _label(choice))
        for job, choice in zip(jobs, choices, strict=True)
    }
    runs = [
        SweepRun(choice, runner.store.run(job.spec), runner.teachers(job.spec))
        for job, choice in zip(jobs, choices, strict=True)
    ]
    directory = sweep_directory(jobs[0].runtime.output_root, runs)
    if search.is_own:
        errors = execute(runner, list(requests.values()), total=len(requests))
    else:
        from kdrun.cli.launch import launched

        begin_summary(directory, [dataclasses.replace(run, error=NOT_BEGUN) for run in runs])
        errors = launched(jobs, runner, search, directory, list(requests.values()))
    runs = [dataclasses.replace(run, error=errors.get(run.run.spec.run_id)) for run in runs]
    failures = 0
    with reporting_damage() as damaged:
        log.info("\n%s", summarise(directory, runs))
        if evaluations := jobs[0].evaluation:
            from kdrun.cli.evaluate import evaluated

            members = {group.label: [run.spec for run in group.runs] for group in group_by_seed(runs) if group.runs}
            text, failures = evaluated(runner, members, evaluations)
            write_atomically(directory / "evaluation.md", text)
            log.info("\n%s", text)
            log.info("evaluation: %s", directory / "evaluation.md")
        for picture in sorted(filter(Path.is_file, directory.glob("*.png"))):
            log.info("picture: %s", picture)
    if errors:
        log.error("%d of %d runs failed; the same command runs only what is missing", len(errors), len(requests))
    if not damaged:
        log.info("result: %s", directory / "summary.csv")
    return 1 if errors or damaged or failures else 0
