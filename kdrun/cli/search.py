"""`kdrun search`: settings that are best on held-out data, found by Optuna, and their runs on the test set."""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun import stopping
from kdrun.cli.execution import ending_with_the_device, execute, ready_runner, reporting_damage
from kdrun.cli.options import refuse
from kdrun.cli.runs import estimate, not_shared
from kdrun.escaping import printable
from kdrun.files import DamagedError, dry_run, sha256
from kdrun.redaction import redacted

if TYPE_CHECKING:
    from kdrun.config.preflight import Job
    from kdrun.config.search import Search
    from kdrun.config.space import Space
    from kdrun.experiment.runner import Runner
    from kdrun.experiment.study import SharedStudy

COMMAND = "kdrun search"
SPLIT = "dataset.val_fraction"
MADE_SPLIT = f"{SPLIT}=0.1"
WARM_UP = 4
"""No run is pruned in the first quarter of its epochs."""

POLL_SECONDS = 0.5

MOST_LOGGED = 10
"""Trials in the log: the best."""

DESCRIPTION = """\
Draws settings from ranges and choices (Optuna's TPE), trains a run for each, and prunes runs that are worse than the
median at the same epoch (Optuna's MedianPruner). The objective is top-1 of the last epoch on held-out training data
(dataset.val_fraction; 0.1 where that is 0). The best settings are then run without that split over the seeds, on the
test set. The same command again resumes; more processes or machines with the same output root share the trials.

  kdrun search 'method.alpha=interval(0.1,0.9)' 'method.temperature=choice(1,2,4,8)' --trials 50 --seeds 3
  kdrun search 'recipe.lr=tag(log,interval(0.001,0.5))' 'recipe.batch_size=range(32,257,32)' method=dkd
  kdrun search 'method=choice(kd,dist,dkd)' 'method.temperature=int(interval(1,16))' --no-pruning

Writes outputs/searches/<id>/: trials.csv, trials.md, importances.png, surface.png; of the best settings summary.csv,
summary.md, curves.png; journal.log, Optuna's record of the study.
"""


def search_main(words: Sequence[str]) -> int:
    """Runs or resumes a search; returns the exit code."""
    options = _parser().parse_intermixed_args(words)
    with dry_run() if options.dry_run else contextlib.nullcontext():
        from kdrun.config.compose import ConfigError, hydra_session

        problems = [] if find_spec("optuna") else ["optuna is not installed: pip install 'kdrun[optuna]'"]
        try:
            with hydra_session():
                space, chosen = _read(options, problems)
                jobs = _checked(space, options, chosen, problems)
        except ConfigError as error:
            problems += error.problems
        if problems:
            return refuse(list(dict.fromkeys(problems)), COMMAND)
        from kdrun.log import log, set_up_console

        set_up_console()
        for notice in dict.fromkeys(notice for job in jobs for notice in job.notices):
            log.info("%s", notice)
        made = ", made for the search" if space.words[-1] == MADE_SPLIT and MADE_SPLIT not in options.overrides else ""
        split = f"{SPLIT}={jobs[0].spec.dataset.val_fraction:g}{made}"
        log.info("objective: top-1 on held-out training data (%s); the best settings train on all of it", split)
        if len({tuple(each.run_id for each in job.spec.teachers) for job in jobs}) > 1:
            log.info("each trial has a teacher of its own, which follows a searched key; teacher.KEY=VALUE fixes it")
        if options.dry_run:
            return estimate(jobs)
        try:
            runner = ready_runner(jobs)
        except ValueError as error:
            return refuse([str(error)], COMMAND)
        identity = sha256("\n".join([repr(space.dimensions), *sorted({job.spec.run_id for job in jobs})]).encode())[:10]
        fixed = (word for word in space.words if isinstance(word, str) and not word.startswith("runtime."))
        title = f"{jobs[0].spec.dataset.name}: {' '.join(fixed)}"
        search = _Execution(options, chosen, space, runner, runner.store.root / "searches" / identity, title)
        try:
            return search.run()
        except (DamagedError, OSError) as error:  # a file of the search cannot be read, written or locked
            log.error("%s: %s", COMMAND, error)
            return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        usage=f"{COMMAND} [options] [key=value | key=interval(...) | key=choice(...) | key=range(...)] ...",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of all runs, or searched, as Hydra sweeps")
    parser.add_argument("--trials", type=int, default=50, metavar="N", help="of the whole search (default 50)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="of the best settings, 0 to N-1 (default 3)")
    parser.add_argument("--no-pruning", action="store_true", help="train every run to its last epoch")
    parser.add_argument("--dry-run", action="store_true", help="check everything and estimate runs; write nothing")
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="DIR", help="a config tree of your own")
    return parser


def _read(options: argparse.Namespace, problems: list[str]) -> tuple[Space, Search]:
    """The search space of a command line, with a split, and what its config files choose; within a session."""
    from kdrun.config.command_line import MOST_JOBS, read_command
    from kdrun.config.compose import on_hydra
    from kdrun.config.space import read_space
    from kdrun.config.table import MOST_SEEDS

    extra = options.config_dir
    for name, most in (("trials", MOST_JOBS), ("seeds", MOST_SEEDS)):
        if not 1 <= (count := getattr(options, name)) <= most:
            problems.append(f"--{name} {count}: must be at least 1 and at most {most:,}")
    typed = options.overrides
    command = read_command([text for text in typed if not on_hydra(text)], problems, multirun=True, extra=extra)
    others = [*(text for text in typed if on_hydra(text)), *(() if command.search.is_own else command.search.files)]
    problems += [f"{each}: has no effect on {COMMAND}; launchers and sweepers are for kdrun -m" for each in others]
    space = read_space(command.overrides, problems, extra=extra)
    first = _job(space.overrides(space.corners()[0]), options, command.search, [])
    if first is not None and first.spec.dataset.val_fraction == 0:
        space = space.fixed(MADE_SPLIT)
    return space, command.search


def _job(overrides: Sequence[str], options: argparse.Namespace, chosen: Search, problems: list[str]) -> Job | None:
    """A checked run; None where there are problems. Within a session."""
    from kdrun.config.compose import ConfigError, compose_job
    from kdrun.config.preflight import check_job

    try:
        config = compose_job(overrides, problems, extra=options.config_dir, search=chosen)
        return check_job(config, overrides, complete=not problems)
    except ConfigError as error:
        problems += error.problems
        return None


def _checked(space: Space, options: argparse.Namespace, chosen: Search, problems: list[str]) -> list[Job]:
    """Checked runs with every choice and both ends of every range; checks one of the best settings' runs, too."""
    jobs = [_job(space.overrides(values), options, chosen, problems) for values in space.corners()]
    _job([*space.overrides(space.corners()[0]), *_final(options.seeds - 1)], options, chosen, problems)
    checked = [job for job in jobs if job is not None]
    if checked:
        problems += not_shared(checked)
        if checked[0].evaluation:
            problems.append(f"evaluation: has no effect on {COMMAND}; evaluate the finished runs afterwards")
    for what in ("dataset", "seed"):
        if len({repr(getattr(job.spec, what)) for job in checked}) > 1:
            problems.append(f"{what}: the trials of a search must share one, so that their objectives can be compared")
    return checked


def _final(seed: int) -> list[str]:
    """The overrides of the best settings' runs."""
    return [f"{SPLIT}=0", f"seed={max(seed, 0)}"]


@dataclass
class _Execution:
    """A checked search under way."""

    options: argparse.Namespace
    chosen: Search
    space: Space
    runner: Runner
    directory: Path
    title: str

    def run(self) -> int:
        """Executes trials until all have ended, then the best settings; returns the exit code."""
        from kdrun.experiment.study import SharedStudy
        from kdrun.log import log

        log.info("search: %s", self.directory)
        with SharedStudy.opened(self.directory) as shared, ending_with_the_device():
            shown: list[int] = []
            while (trial := shared.claim(self.options.trials)) is not None or (others := shared.running()):
                if trial is not None:
                    self._execute(shared, trial)
                    continue
                if others != shown:
                    log.info("waiting for trials of other processes: %s", ", ".join(map(str, others)))
                    shown = others
                time.sleep(POLL_SECONDS)
            return self._conclude(shared)

    def _execute(self, shared: SharedStudy, trial: Any) -> None:
        """Trains the run of a trial, and records how it ended."""
        from kdrun.analysis.search import DIVERGED, SETTINGS
        from kdrun.experiment.attempt import Pruned, Request
        from kdrun.log import log

        with stopping.deferred():
            values = {each.key: each.suggest(trial) for each in self.space.dimensions}
        label = " ".join(f"{key}={value}" for key, value in values.items())
        place = f"[{trial.number + 1}/{self.options.trials}] {printable(label)}"
        job, problems = self._composed(self.space.overrides(values))
        if job is None:
            log.error("%s: failed: %s", place, "; ".join(problems))
            shared.tell(trial)
            return
        spec, run, reported = job.spec, self.runner.store.run(job.spec), 0
        for name, attribute in (("run", str(run.directory)), (SETTINGS, values)):
            trial.set_user_attr(name, attribute)

        def report(rows: Sequence[Mapping[str, Any]], *, prunes: bool = not self.options.no_pruning) -> None:
            """Reports the rows that are new in this process: also those before a resumption."""
            nonlocal reported
            for row in rows[reported:]:
                reported += 1
                if "val" not in row or row.get("stage", 2) == 1:  # a first stage trains no classifier
                    continue
                epoch, top1 = row["epoch"], row["val"]["top1"]
                is_bad = shared.report(trial, top1, epoch)
                if prunes and is_bad and spec.epochs_trained < WARM_UP * epoch and epoch < spec.epochs_trained:
                    raise Pruned(f"after epoch {epoch}/{spec.epochs_trained}, val top-1 {top1:.2f} %")

        request = Request(spec, job.config, label, on_epoch=report)
        try:
            with contextlib.suppress(FileNotFoundError):  # of a run that was not begun
                report(run.rows(), prunes=not (run.finished or self.options.no_pruning))
            ((_, ended),) = self.runner.execute_all([request], before=trial.number, total=self.options.trials)
            if isinstance(ended, Exception):
                raise ended
            report(run.rows(), prunes=False)
        except Pruned as pruned:
            shared.tell(trial, pruned=True)
            log.info("%s: pruned %s", place, pruned)
        except Exception as error:  # recorded in the run's log and status
            diverged = run.state == DIVERGED
            level = logging.INFO if diverged else logging.ERROR
            log.log(level, "%s failed: %s", place, redacted(f"{type(error).__name__}: {error}"))
            trial.set_user_attr(DIVERGED, diverged)
            shared.tell(trial, pruned=diverged)
        else:
            top1 = ended.result["val"]["last"]["top1"]
            shared.tell(trial, top1)
            log.info("%s: val top-1 %.2f %%%s", place, top1, " (finished before)" if ended.reused else "")

    def _composed(self, overrides: Sequence[str]) -> tuple[Job | None, list[str]]:
        """A checked run, or the problems of its overrides."""
        from kdrun.config.compose import hydra_session

        problems: list[str] = []
        with hydra_session():
            return _job(overrides, self.options, self.chosen, problems), problems

    def _conclude(self, shared: SharedStudy) -> int:
        """Writes the tables and pictures of the trials, and executes the best settings on the test set."""
        from kdrun.analysis.search import report
        from kdrun.config.quoting import in_shell
        from kdrun.log import log

        best = shared.best()
        with reporting_damage() as damaged:
            text = report(self.directory, shared.study, self.title)
            log.info("\n%s", "\n".join(text.splitlines()[: 4 + MOST_LOGGED]))
            log.info("trials: %s", self.directory / "trials.csv")
        if best is None:
            log.error("no trial has finished: there are no best settings; the same command tries further ones")
            return 1
        values = {each.key: each.suggest(best) for each in self.space.dimensions}
        words = " ".join(map(in_shell, self.space.overrides(values)))
        log.info("best: trial %d, val top-1 %.2f %%: %s", best.number, best.value, words)
        return 1 if self._has_failed(values) or damaged or shared.failed else 0

    def _has_failed(self, values: Mapping[str, str]) -> bool:
        """Executes the best settings over the seeds and writes their summary; returns whether anything failed."""
        from kdrun.analysis.aggregate import SweepRun
        from kdrun.analysis.sweep import summarise
        from kdrun.experiment.attempt import Request
        from kdrun.log import log

        jobs = []
        for seed in range(self.options.seeds):
            job, problems = self._composed([*self.space.overrides(values), *_final(seed)])
            if job is None:
                log.error("%s", "\n".join(problems))
                return True
            jobs.append(job)
        requests = [Request(job.spec, job.config, f"best seed={job.spec.seed}") for job in jobs]
        errors, store = execute(self.runner, requests, total=len(requests)), self.runner.store
        runs = []
        for spec in (job.spec for job in jobs):
            choices, teachers = {**values, "seed": str(spec.seed)}, self.runner.teachers(spec)
            runs.append(SweepRun(choices, store.run(spec), teachers, errors.get(spec.run_id)))
        with reporting_damage() as damaged:
            log.info("\n%s", summarise(self.directory, runs))
            for picture in sorted(self.directory.glob("*.png")):
                log.info("picture: %s", picture)
            log.info("result: %s", self.directory / "summary.csv")
        return bool(errors or damaged)
