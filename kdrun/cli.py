"""The `kdrun` command: what the user typed, to jobs, to runs; and exit codes.

0 finished, 1 a run failed, 2 bad input (nothing was written), 128+n stopped by signal n. torch is imported only when
something is to be run, so that `--help`, `--cfg` and completion answer at once.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun import __version__

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from kdrun.config.preflight import Job
    from kdrun.experiment.runner import Outcome, Runner

BAD_INPUT = 2
SERVED_BY_HYDRA = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
FOREIGN = ("hydra/launcher=", "hydra/sweeper=")


class _Stopped(BaseException):
    """A signal asked the process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if _for_hydra(words):
        return _hydra_main(words)
    options = _parser().parse_intermixed_args(words)
    if options.version:
        print(f"kdrun {__version__} ({Path(__file__).parent})")
        return 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        return _run(options)
    except _Stopped as stop:
        print(f"kdrun: {stop}; the same command resumes after the last finished epoch", file=sys.stderr)
        return 128 + stop.number


def _stop(number: int, _frame: object) -> None:
    raise _Stopped(number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kdrun", usage="kdrun [options] [key=value ...]", add_help=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("--version", action="store_true")
    parser.add_argument("-c", "--cfg")  # Hydra serves it
    return parser


def _run(options: argparse.Namespace) -> int:
    from kdrun.config.compose import ConfigError

    try:
        jobs, choices = _jobs(options)
    except ConfigError as error:
        print(_problems(error), file=sys.stderr)
        return BAD_INPUT
    from kdrun.experiment.reporting import log, set_up_console

    set_up_console()
    for notice in dict.fromkeys(notice for job in jobs for notice in job.notices):
        log.info("%s", notice)
    if options.dry_run:
        from kdrun.experiment.dry_run import dry_run

        teachers = [teacher for job in jobs for teacher in job.spec.teachers]
        for role, specs in (("teacher", teachers), ("student", [job.spec for job in jobs])):
            for spec in {spec.run_id: spec for spec in specs}.values():
                log.info("%s", dry_run(spec, jobs[0].device, role=role))
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
    with hydra_session():
        lists = expand(options.overrides, multirun=options.multirun, problems=problems)
        swept = [texts[0].partition("=")[0] for texts in zip(*lists, strict=True) if len(set(texts)) > 1]
        for job_overrides in lists:
            try:
                config = compose_job(job_overrides, problems, extra=options.config_dir)
                from kdrun.config.preflight import check_job  # torch is needed from here on

                jobs.append(check_job(config, job_overrides))
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


def _problems(error: Any) -> str:
    count = len(error.problems)
    lines = "\n".join(f"  {problem}" for problem in error.problems)
    return f"kdrun: {count} problem{'s' if count > 1 else ''}; nothing was run or written\n{lines}\nSee kdrun --help"


def _runner(jobs: Sequence[Job]) -> Runner:
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

    runner = _runner([job])
    outcome, error = _execute(runner, job)
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


def _execute(runner: Runner, job: Job) -> tuple[Outcome | None, str | None]:
    """One run to its end; a failure is told in a line, its traceback is in the run's kdrun.log."""
    try:
        return runner.execute(job.spec, config=job.config), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def _run_sweep(jobs: list[Job], choices: list[dict[str, str]]) -> int:
    from kdrun.analysis.aggregate import SweepRun
    from kdrun.analysis.sweep import summarise, sweep_directory
    from kdrun.experiment.reporting import log

    runner = _runner(jobs)
    log.info("%s", runner.plan([job.spec for job in jobs]))
    runs: list[SweepRun] = []
    for number, (job, choice) in enumerate(zip(jobs, choices, strict=True), start=1):
        outcome, error = _execute(runner, job)
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


def _for_hydra(words: Sequence[str]) -> bool:
    """Whether Hydra's own main serves this command line: its flags, and other launchers and sweepers."""
    return any(word in SERVED_BY_HYDRA or word.startswith(("--cfg=", *FOREIGN)) for word in words)


def _hydra_main(words: Sequence[str]) -> int:
    """Hands over to Hydra, after its own way of telling a bad override has been spared the user."""
    import hydra

    from kdrun.config.compose import (
        CONFIG_NAME,
        ConfigError,
        compose_job,
        config_directory,
        hydra_session,
        in_hydras_words,
    )

    options, _ = _parser().parse_known_args(words)
    if options.cfg:
        overrides = [word for word in words if "=" in word and not word.startswith("-")]
        problems: list[str] = []
        try:
            with hydra_session():
                compose_job(overrides, problems, extra=options.config_dir)
        except ConfigError as error:
            problems += error.problems
        if problems:
            print(_problems(ConfigError(problems)), file=sys.stderr)
            return BAD_INPUT
    sys.argv = ["kdrun", *map(in_hydras_words, words)]
    hydra.main(version_base="1.3", config_path=str(config_directory()), config_name=CONFIG_NAME)(_hydra_task)()
    return 0


def _hydra_task(config: DictConfig) -> float:
    """One job of a foreign launcher or sweeper: returns the top-1 of the last epoch on the test set, in percent."""
    from hydra.core.hydra_config import HydraConfig

    from kdrun.config.compose import ConfigError
    from kdrun.config.preflight import check_job
    from kdrun.experiment.build import TRUST_VARIABLE
    from kdrun.experiment.reporting import log, set_up_console

    set_up_console()
    if TRUST_VARIABLE in HydraConfig.get().job.env_set:
        raise ConfigError([f"hydra.job.env_set: {TRUST_VARIABLE} is taken from the environment, never from a config"])
    job = check_job(config, tuple(HydraConfig.get().overrides.task))
    outcome = _runner([job]).execute(job.spec, config=job.config)
    log.info("result: %s", outcome.run.result_path)
    top1: float = outcome.result["test"]["last"]["top1"]
    return top1
