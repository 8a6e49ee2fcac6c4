"""`kdrun table`: executes the missing runs of a paper's table, and renders it beside the published figures."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.cli.options import refuse
from kdrun.files import dry_run

if TYPE_CHECKING:
    from kdrun.config.preflight import Job
    from kdrun.config.search import Search
    from kdrun.config.table import ComposedTable
    from kdrun.store.store import Store

PUBLISHED = Path("outputs/published")
PRECISIONS = ("fp32", "bf16")
"""Precisions of published runs."""

DESCRIPTION = """\
Without NAME: lists the tables. With it: executes the missing runs of the table, in lockstep where they can train
together, and writes table.md, table.csv, table.tex and table.png under outputs/tables/NAME/, replacing older ones.
The same command again resumes; --render-only, at any time, shows the finished runs.

  kdrun table tfkd_t1                                      every row, 3 seeds, at the paper's scale (CIFAR-100)
  kdrun table tfkd_t4 dataset=digits recipe.epochs=10      the same comparison on the embedded digits
  kdrun table tfkd_t1 --rows 'mobilenetv2/kd/resnet18*'    one row, its controls and its baseline
  kdrun table tfkd_t1 --rows '!*densenet*,!*resnext*'      all but these
  kdrun table tfkd_t1 --no-controls                        the paper's rows alone
  kdrun table tfkd_t1 method.kl_reduction=batchmean        the losses as the paper writes them, not as released
  kdrun table tfkd_t9 --render-only                        what there is; no data needed
  kdrun table tfkd_t9 --launcher submitit_slurm hydra.launcher.partition=gpu   every run as a job of Slurm
  kdrun table tfkd_t9 --dry-run                            every run with parameters, MACs and estimated time
"""


def table_main(words: Sequence[str]) -> int:
    """Runs and renders a table; returns the exit code."""
    options = _parser().parse_intermixed_args(words)
    if options.name is None:
        return _list()
    with dry_run() if options.dry_run else contextlib.nullcontext():
        return _run_or_show(options, words)


def _run_or_show(options: argparse.Namespace, words: Sequence[str]) -> int:
    from kdrun.config.compose import ConfigError
    from kdrun.config.table import compose_table, load_table

    problems: list[str] = []
    try:
        search, overrides = _launcher(options, problems)
        definition = load_table(options.name)
        if definition.unavailable and not options.render_only:
            raise ConfigError([f"table {definition.name} cannot be run: {definition.unavailable}; use --render-only"])
        if options.published is not None and not os.path.isdir(options.published):
            raise ConfigError([f"--published {options.published}: no such directory"])
        with dry_run() if options.render_only else contextlib.nullcontext():  # its data may be absent
            table = compose_table(
                definition,
                overrides,
                num_seeds=options.seeds,
                patterns=() if options.rows is None else options.rows.split(","),
                controls=not options.no_controls,
                extra=options.config_dir,
            )
        if not (search.is_own or options.render_only):
            from kdrun.cli.launchers import launcher_obstacles

            problems += launcher_obstacles(search, table.shared.runtime)
    except ConfigError as error:
        problems += error.problems
    if problems:
        return refuse(list(dict.fromkeys(problems)), "kdrun table")
    from kdrun.cli.table_plan import plan
    from kdrun.cli.table_runs import run_missing
    from kdrun.log import log, set_up_console
    from kdrun.store.store import Store

    set_up_console()
    for notice in _notices(list(table.jobs.values())):
        log.info("%s", notice)
    published = options.published or PUBLISHED
    sheet = _Sheet(
        table,
        Store(table.shared.runtime.output_root, published),
        published,
        command=" ".join(["kdrun table", *map(shlex.quote, words)]),
    )
    if not (options.dry_run or options.render_only):
        try:
            sheet.store.check_writable(job.spec for job in table.jobs.values())
        except ValueError as error:
            return refuse([str(error)], "kdrun table")
    failed = 0
    try:
        if options.dry_run:
            log.info("%s", plan(table, sheet.store))
            return 0
        if options.render_only:
            sheet.table = _at_best_precision(table, sheet.store, options.overrides)
        else:
            failed = run_missing(table, sheet.store, sheet.so_far, search=search, directory=sheet.directory)
        sheet.show()
    except (RuntimeError, OSError) as error:  # a result that cannot be read, a directory that cannot be written
        log.error("kdrun: %s", error)
        return 1
    return 1 if failed else 0


def _launcher(options: argparse.Namespace, problems: list[str]) -> tuple[Search, list[str]]:
    """The launcher of a table's runs with its options, and the overrides that apply to the runs."""
    from kdrun.config.command_line import read_command
    from kdrun.config.compose import hydra_session
    from kdrun.config.search import LAUNCHER, OPTIONS, Search

    if options.launcher is None:
        return Search(), options.overrides
    if options.render_only:
        problems.append("--launcher: has no effect with --render-only")
    typed = [text for text in options.overrides if text.lstrip("+~").startswith(f"{OPTIONS}.")]
    with hydra_session():
        search = read_command([f"{LAUNCHER}={options.launcher}", *typed], problems, multirun=True).search
    return search, [text for text in options.overrides if text not in typed]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdrun table",
        usage="kdrun table [NAME] [options] [key=value ...]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a table of the list, or the path of a .yaml file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="on every row that has the key")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N-1 (default 3, at most 1,000)")
    parser.add_argument(
        "--rows",
        metavar="PATTERN[,...]",
        help="rows by name, with * and ?; !PATTERN leaves out; their baselines come along (names: --dry-run)",
    )
    parser.add_argument("--no-controls", action="store_true", help="leave out the control rows: not run, not shown")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--render-only", action="store_true", help="render what is finished, run nothing")
    mode.add_argument("--dry-run", action="store_true", help="list every run with its cost; write nothing")
    parser.add_argument(
        "--launcher",
        metavar="NAME",
        help="the missing runs as jobs of joblib, submitit_local, submitit_slurm or ray, teachers first; its options: "
        "hydra.launcher.KEY=VALUE",
    )
    parser.add_argument(
        "--published",
        type=Path,
        metavar="DIR",
        help="results of runs made elsewhere: DATASET/STUDENT/METHOD-RUN_ID/ as under outputs/runs/, each with its "
        f"result.json and metrics.jsonl; and derived/ as under outputs/ (default {PUBLISHED})",
    )
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="DIR", help="a config tree of your own")
    return parser


def _notices(jobs: Sequence[Job]) -> list[str]:
    """The runs' notices, each once; an unused override is reported only if no run uses it."""
    unused = [{text for texts in job.left_aside.values() for text in texts} for job in jobs]
    of_all = set.intersection(*unused) if unused else set()
    notices = (text for job in jobs for text in job.notices if of_all.issuperset(job.left_aside.get(text, ())))
    return list(dict.fromkeys(notices))


def _list() -> int:
    from kdrun.config.table import load_table, shipped_tables
    from kdrun.log import log, set_up_console

    set_up_console()
    names = shipped_tables()
    width = max(map(len, names)) + 2
    for name in names:
        definition = load_table(name)
        reason = f"  (to look at: {definition.unavailable})" if definition.unavailable else ""
        log.info("%s", f"{name:<{width}}{definition.full_title}{reason}")
    log.info("\nkdrun table NAME --dry-run lists the rows; kdrun table --help the options")
    return 0


@dataclass
class _Sheet:
    """A table with the store of its runs, and its rendering."""

    table: ComposedTable
    store: Store
    published: Path
    command: str

    @property
    def directory(self) -> Path:
        return self.table.shared.runtime.output_root / "tables" / self.table.definition.name

    def write(self) -> str:
        """Renders the finished runs; returns the Markdown."""
        from kdrun.experiment.derived import kept
        from kdrun.tables.render.table_files import render

        table = self.table
        return render(
            self.directory,
            table.definition,
            table.entries,
            self.store.find,
            published=table.published,
            command=self.command,
            elsewhere=self.published,
            kept=lambda derived: kept(self.store, derived),
        )

    def so_far(self) -> None:
        """Renders the finished runs and logs the path, while others are missing."""
        from kdrun.log import log

        self.write()
        log.info("so far: %s", self.directory / "table.md")

    def show(self) -> None:
        """Renders the finished runs; logs the table, and the paths of its files."""
        from kdrun.log import log

        text = self.write()
        for figure in self.table.definition.figures:
            if not any((self.directory / name).exists() for name in figure.files):
                log.info("no %s: there is nothing to show yet", figure.name)
        log.info("\n%s", text)
        specs = {spec.run_id: spec for entry in self.table.entries for spec in entry.specs}
        missing = [spec for spec in specs.values() if self.store.find(spec) is None]
        if older := sum(self.store.find_older(spec) is not None for spec in missing):
            log.info("%d of the missing runs have results of an older semantics, left out here: see kdrun ls", older)
        for picture in sorted(filter(Path.is_file, self.directory.glob("*.png"))):
            log.info("picture: %s", picture)
        log.info("result: %s", self.directory / "table.csv")


def _at_best_precision(table: ComposedTable, store: Store, overrides: Sequence[str]) -> ComposedTable:
    """The table at the precision with most finished runs: published ones may have another than this machine's.

    One table never mixes two; `runtime.precision=` chooses one.
    """
    from kdrun.experiment.derived import kept

    if any(text.startswith("runtime.precision=") and not text.endswith("=auto") for text in overrides):
        return table

    def finished(precision: str) -> int:
        entries = [entry.at_precision(precision) for entry in table.entries]
        runs = sum(store.find(spec) is not None for entry in entries for spec in entry.specs)
        return runs + sum(kept(store, derived) is not None for entry in entries for derived in entry.derived)

    own = table.shared.spec.precision
    best = max(sorted(PRECISIONS, key=lambda precision: precision != own), key=finished)
    return dataclasses.replace(table, entries=[entry.at_precision(best) for entry in table.entries])
