"""`kdrun table`: runs what is missing of a paper's table, and renders it beside the published figures."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.cli.options import refuse

if TYPE_CHECKING:
    from kdrun.config.preflight import Job
    from kdrun.config.table import ComposedTable
    from kdrun.experiment.derived import Derived
    from kdrun.experiment.runner import Runner
    from kdrun.experiment.spec import Spec
    from kdrun.experiment.store import Store
    from kdrun.tables import Entry

PUBLISHED = Path("outputs/published")
PRECISIONS = ("fp32", "bf16")
"""What a published run can have been computed in."""

DESCRIPTION = """\
Without NAME: lists the tables. With it: runs what is missing of the table, in lockstep what can train together, and
writes table.md, table.csv, table.tex and table.png under outputs/tables/NAME/, in the place of what was there before.
The same command again goes on where it was; --render-only, at any time, shows what is finished.

  kdrun table tfkd_t1                                      every row, 3 seeds, at the paper's scale (CIFAR-100)
  kdrun table tfkd_t4 dataset=digits recipe.epochs=10      the same comparison on the embedded digits
  kdrun table tfkd_t1 --rows 'mobilenetv2/kd/resnet18*'    one row, its controls and its baseline
  kdrun table tfkd_t1 --rows '!*densenet*,!*resnext*'      all but these
  kdrun table tfkd_t1 method.kl_reduction=batchmean        the losses as the paper writes them, not as released
  kdrun table tfkd_t9 --render-only                        what there is; no data needed
  kdrun table tfkd_t9 --dry-run                            every run with parameters, MACs and estimated time
"""


def table_main(words: Sequence[str]) -> int:
    """Runs and renders a table; returns the exit code."""
    options = _parser().parse_intermixed_args(words)
    if options.name is None:
        return _list()
    from kdrun.config.compose import ConfigError
    from kdrun.config.table import compose_table, load_table

    try:
        definition = load_table(options.name)
        if definition.unavailable and not options.render_only:
            raise ConfigError([f"table {definition.name} cannot be run: {definition.unavailable}; use --render-only"])
        if options.published is not None and not options.published.is_dir():
            raise ConfigError([f"--published {options.published}: no such directory"])
        table = compose_table(
            definition,
            options.overrides,
            num_seeds=options.seeds,
            patterns=() if options.rows is None else options.rows.split(","),
            extra=options.config_dir,
        )
    except ConfigError as error:
        return refuse(error.problems, "kdrun table")
    from kdrun.cli.table_plan import plan
    from kdrun.experiment.reporting import log, set_up_console
    from kdrun.experiment.store import Store

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
    failed = 0
    try:
        if options.dry_run:
            log.info("%s", plan(table, sheet.store))
            return 0
        if options.render_only:
            sheet.table = _at_best_precision(table, sheet.store, options.overrides)
        else:
            failed = _run(sheet)
        sheet.show(compute=not options.render_only)
    except (RuntimeError, OSError) as error:  # a result that cannot be read, a directory that cannot be written
        log.error("kdrun: %s", error)
        return 1
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdrun table",
        usage="kdrun table [NAME] [options] [key=value ...]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a table of the list, or the path of a .yaml file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="on every row that has the key")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N-1 (default 3)")
    parser.add_argument(
        "--rows",
        metavar="PATTERN[,...]",
        help="rows by name, with * and ?; !PATTERN leaves out; their baselines come along (names: --dry-run)",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--render-only", action="store_true", help="render what is finished, run nothing")
    mode.add_argument("--dry-run", action="store_true", help="list every run with its cost; write nothing")
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
    """What the runs tell, each once. An override is for the whole table: that one run has no use for it is not told."""
    aside = [{text for texts in job.left_aside.values() for text in texts} for job in jobs]
    told = [
        notice
        for job in jobs
        for notice in job.notices
        if all(useless.issuperset(job.left_aside.get(notice, ())) for useless in aside)
    ]
    return list(dict.fromkeys(told))


def _list() -> int:
    from kdrun.config.table import load_table, table_names
    from kdrun.experiment.reporting import log, set_up_console

    set_up_console()
    names = table_names()
    width = max(map(len, names)) + 2
    for name in names:
        definition = load_table(name)
        reason = f"  (to look at: {definition.unavailable})" if definition.unavailable else ""
        log.info("%s", f"{name:<{width}}{definition.full_title}{reason}")
    log.info("\nkdrun table NAME --dry-run lists the rows; kdrun table --help the options")
    return 0


@dataclass
class _Sheet:
    """A table with what is known of its runs, and where it is written."""

    table: ComposedTable
    store: Store
    published: Path
    command: str

    @property
    def directory(self) -> Path:
        return self.table.shared.runtime.output_root / "tables" / self.table.definition.name

    def write(self) -> str:
        """Renders what is finished; returns the Markdown."""
        from kdrun.analysis.paper_table import render
        from kdrun.experiment.derived import kept

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

    def show(self, *, compute: bool) -> None:
        """Renders everything, and tells the table and where it lies.

        Args:
            compute: whether figures may run networks on data.
        """
        from kdrun.experiment.reporting import log

        text = self.write()
        if "soft_targets" in self.table.definition.figures:
            _draw_soft_targets(self.directory / "soft_targets.png", self.table, self.store, compute=compute)
        log.info("\n%s", text)
        for picture in sorted(self.directory.glob("*.png")):
            log.info("picture: %s", picture)
        log.info("result: %s", self.directory / "table.csv")


def _run(sheet: _Sheet) -> int:
    """Runs what neither the output root nor the published results have; returns how many runs failed.

    The table is written after each seed.
    """
    from kdrun.cli.runs import execute, runner_for
    from kdrun.experiment.attempt import Request
    from kdrun.experiment.reporting import log

    jobs, rounds = sheet.table.jobs, _rounds(sheet.table.entries)
    runner = runner_for([sheet.table.shared, *jobs.values()])
    total = sum(len(members) for members in rounds)
    log.info("%s", runner.plan([spec for members in rounds for _, spec in members]))
    number = failed = 0
    for members in rounds:
        missing = []
        for name, spec in members:
            label = f"{name} seed={spec.seed}"
            known = sheet.store.find(spec)
            if known is None:
                missing.append(Request(spec, jobs[spec.run_id].config, label))
                continue
            number += 1
            top1 = known.result()["test"]["last"]["top1"]
            log.info("[%d/%d] %s: top-1 %.2f %% (finished before: %s)", number, total, label, top1, known.origin())
        failed += len(execute(runner, missing, before=number, total=total))
        number += len(missing)
        if number < total:
            sheet.write()
            log.info("so far: %s", sheet.directory / "table.md")
    if failed:
        log.error("%d of %d runs failed; the same command runs only what is missing", failed, total)
    return failed + _derive(sheet, runner)


def _derive(sheet: _Sheet, runner: Runner) -> int:
    """Computes what the table shows of finished runs and has not been computed; returns how much of it failed.

    It takes weights: of what published results alone know nothing is computed.
    """
    from kdrun.cli.runs import ending_with_the_device
    from kdrun.experiment.derived import compute, kept
    from kdrun.experiment.reporting import log

    failed = 0
    for name, derived in _asked_of_runs(sheet.table):
        found = [sheet.store.find(spec) for spec in derived.specs]
        runs = [run for run in found if run is not None]
        if len(runs) < len(found) or kept(sheet.store, derived) is not None:
            continue
        if not all(run.weights.exists() for run in runs):
            log.info("%s: not computed of published results, which have no weights: %s", name, derived.words())
            continue
        with ending_with_the_device():
            try:
                compute(derived, runner)
            except (RuntimeError, OSError) as error:
                log.error("%s: %s: %s", name, derived.words(), error)
                failed += 1
    return failed


def _asked_of_runs(table: ComposedTable) -> Iterator[tuple[str, Derived]]:
    """Everything that the table shows and that is computed of finished runs, with the name of its row."""
    for entry in table.entries:
        asked = [*entry.derived, *(entry.by_class if entry.row.errors_on else ())]
        if entry.ensemble is not None and "ensemble" in table.definition.columns:
            asked.append(entry.ensemble)
        yield from ((entry.row.name, derived) for derived in asked)


def _rounds(entries: Sequence[Entry]) -> list[list[tuple[str, Spec]]]:
    """The runs of each seed, so that the whole table is there early; among them teachers stopped early first.

    A longer training of the same network then goes on from theirs. Runs that derived rows are made of, and that are
    no rows, have the name of the first of these.
    """

    def stop(spec: Spec) -> float:
        return min((teacher.stop_epoch for teacher in spec.teachers if teacher.stop_epoch), default=math.inf)

    rounds: list[dict[str, tuple[str, Spec]]] = [{} for _ in range(max((e.asked for e in entries), default=0))]
    for entry in entries:
        for i, spec in enumerate(entry.specs):
            rounds[i][spec.run_id] = (entry.row.name, spec)
    known = {run_id for members in rounds for run_id in members}
    for entry in entries:
        for i, derived in enumerate(entry.derived):
            for spec in derived.specs:
                if spec.run_id not in known:
                    rounds[i][spec.run_id] = (f"for {entry.row.name}", spec)
                    known.add(spec.run_id)
    return [sorted(members.values(), key=lambda run: stop(run[1])) for members in rounds]


def _at_best_precision(table: ComposedTable, store: Store, overrides: Sequence[str]) -> ComposedTable:
    """Published runs may be of another precision than this machine's: shows that of which most is finished.

    One table never mixes two; `runtime.precision=` settles it.
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


def _draw_soft_targets(path: Path, table: ComposedTable, store: Store, *, compute: bool) -> None:
    """Draws what the first seed's networks say about test images; without `compute`, what was computed before.

    To compute it takes weights and data. A picture of which there is nothing to draw is not there afterwards.
    """
    from kdrun.analysis.soft_targets import draw_soft_targets
    from kdrun.experiment.reporting import log
    from kdrun.experiment.soft_targets import kept, soft_targets

    runs = {entry.student: store.find(entry.specs[0]) for entry in table.entries if entry.specs}
    finished = {name: run for name, run in runs.items() if run is not None}
    if compute:  # published runs have no weights
        shared = next(iter(table.jobs.values()))
        for run in finished.values():
            if run.weights.exists():
                soft_targets(run, shared.runtime.data_root, shared.runtime.device)
    seen = {name: found for name, run in finished.items() if (found := kept(run)) is not None}
    if not seen:
        path.unlink(missing_ok=True)
        log.info("no %s: it takes the weights and the data of these networks; run the table to have it", path.name)
        return
    spec = next(finished[name] for name in seen).spec
    draw_soft_targets(path, seen, title=f"{spec.dataset.name}, {spec.epochs_trained} epochs, seed {spec.seed}")
