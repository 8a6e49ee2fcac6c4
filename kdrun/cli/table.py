"""`kdrun table`: runs what is missing of a paper's table, and renders it beside the published figures."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.cli.options import refuse

if TYPE_CHECKING:
    from kdrun.config.table import ComposedTable
    from kdrun.experiment.spec import Spec
    from kdrun.experiment.store import Store
    from kdrun.tables import Entry

PUBLISHED = Path("outputs/published")
PRECISIONS = ("fp32", "bf16")

DESCRIPTION = """\
Without NAME: lists the tables. With it: runs what is missing of the table, one run after the other, and writes
table.md, table.csv, table.tex and table.png under outputs/tables/NAME/. The same command again goes on where it was.

  kdrun table tfkd_t1                                      every row, 3 seeds, at the paper's scale (CIFAR-100)
  kdrun table tfkd_t4 dataset=digits recipe.epochs=10      the same comparison on the embedded digits
  kdrun table tfkd_t1 --rows 'mobilenetv2/kd/resnet18*'    one row, its controls and its baseline
  kdrun table tfkd_t1 --rows '!*densenet*,!*resnext*'      all but these
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
            patterns=options.rows.split(",") if options.rows else (),
            extra=options.config_dir,
        )
    except ConfigError as error:
        return refuse(error.problems)
    from kdrun.experiment.reporting import log, set_up_console
    from kdrun.experiment.store import Store

    set_up_console()
    for notice in dict.fromkeys(notice for job in table.jobs.values() for notice in job.notices):
        log.info("%s", notice)
    store = Store(table.shared.output_root, options.published or PUBLISHED)
    if options.dry_run:
        log.info("%s", _plan(table, store))
        return 0
    failed = 0
    if not options.render_only:
        failed = _run(table, store)
    else:
        table = _at_best_precision(table, store, options.overrides)
    _render(table, store, " ".join(["kdrun table", *map(shlex.quote, words)]))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdrun table",
        usage="kdrun table [NAME] [options] [key=value ...]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a table of the list, or the path of a .yaml file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="on every row, as for a run")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N-1 (default 3)")
    parser.add_argument(
        "--rows",
        metavar="PATTERN[,...]",
        help="rows by name, with * and ?; !PATTERN leaves out; their baselines come along (names: --dry-run)",
    )
    parser.add_argument("--render-only", action="store_true", help="render what is finished, run nothing")
    parser.add_argument("--dry-run", action="store_true", help="list every run with its cost; write nothing")
    parser.add_argument(
        "--published", type=Path, metavar="DIR", help=f"results of runs made elsewhere (default {PUBLISHED})"
    )
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="DIR", help="a config tree of your own")
    return parser


def _list() -> int:
    from kdrun.config.table import load_table, table_names

    for name in table_names():
        definition = load_table(name)
        reason = f"  (to look at: {definition.unavailable})" if definition.unavailable else ""
        print(f"{name:<20}{definition.title}{reason}")
    print("\nkdrun table NAME --dry-run lists the rows; kdrun table --help the options")
    return 0


def _run(table: ComposedTable, store: Store) -> int:
    """Runs what neither the output root nor the published results have; returns how many runs failed."""
    from kdrun.cli.runs import execute, runner_for
    from kdrun.experiment.reporting import log

    runner = runner_for([table.shared, *table.jobs.values()])
    order = _order(table.entries)
    log.info("%s", runner.plan([spec for _, spec in order]))
    failed = 0
    for number, (name, spec) in enumerate(order, start=1):
        label = f"[{number}/{len(order)}] {name} seed={spec.seed}"
        known = store.find(spec)
        if known is not None:
            log.info("%s: top-1 %.2f %% (finished before)", label, known.result()["test"]["last"]["top1"])
            continue
        outcome, error = execute(runner, table.jobs[spec.run_id])
        if outcome is None:
            failed += 1
            log.error("%s: failed: %s", label, error)
        else:
            log.info("%s: top-1 %.2f %%", label, outcome.result["test"]["last"]["top1"])
    if failed:
        log.error("%d of %d runs failed; the same command runs only what is missing", failed, len(order))
    return failed


def _order(entries: Sequence[Entry]) -> list[tuple[str, Spec]]:
    """One seed after the other, so that the whole table is there early; with a seed, teachers stopped early first.

    A longer training of the same network then goes on from theirs.
    """

    def stop(spec: Spec) -> float:
        return min((teacher.stop_epoch for teacher in spec.teachers if teacher.stop_epoch), default=math.inf)

    rounds = max((len(entry.specs) for entry in entries), default=0)
    runs = [[(entry.row.name, entry.specs[i]) for entry in entries if i < len(entry.specs)] for i in range(rounds)]
    return [run for members in runs for run in sorted(members, key=lambda run: stop(run[1]))]


def _at_best_precision(table: ComposedTable, store: Store, overrides: Sequence[str]) -> ComposedTable:
    """Published runs may be of another precision than this machine's: shows that of which most is finished.

    One table never mixes two; `runtime.precision=` settles it.
    """
    if any(text.startswith("runtime.precision=") and not text.endswith("=auto") for text in overrides):
        return table

    def finished(precision: str) -> int:
        specs = [spec.at_precision(precision) for entry in table.entries for spec in entry.specs]
        return sum(store.find(spec) is not None for spec in specs)

    own = table.shared.spec.precision
    best = max(sorted(PRECISIONS, key=lambda precision: precision != own), key=finished)
    entries = [
        dataclasses.replace(entry, specs=tuple(spec.at_precision(best) for spec in entry.specs))
        for entry in table.entries
    ]
    return dataclasses.replace(table, entries=entries)


def _render(table: ComposedTable, store: Store, command: str) -> None:
    from kdrun.analysis.paper_table import render
    from kdrun.experiment.reporting import log

    directory = table.shared.output_root / "tables" / table.definition.name
    text = render(directory, table.definition, table.entries, store.find, published=table.published, command=command)
    if "soft_targets" in table.definition.figures:
        _draw_soft_targets(directory / "soft_targets.png", table, store)
    log.info("\n%s", text)
    for picture in sorted(directory.glob("*.png")):
        log.info("picture: %s", picture)
    log.info("result: %s", directory / "table.csv")


def _draw_soft_targets(path: Path, table: ComposedTable, store: Store) -> None:
    """Draws what the first seed's networks say about test images; for that, weights and data must be here."""
    from kdrun.analysis.soft_targets import draw_soft_targets
    from kdrun.experiment.reporting import log
    from kdrun.experiment.soft_targets import soft_targets

    runs = {entry.row.student: store.run(entry.specs[0]) for entry in table.entries if entry.specs}
    finished = {name: run for name, run in runs.items() if run.finished}
    if not finished:
        log.info("no %s: none of these networks has been trained under %s", path.name, table.shared.output_root)
        return
    shared = next(iter(table.jobs.values()))
    draw_soft_targets(
        path, {name: soft_targets(run, shared.data_root, shared.device) for name, run in finished.items()}
    )


def _plan(table: ComposedTable, store: Store) -> str:
    """Every run of the table with what it costs; runs that differ in their seed in one line, teachers once."""
    from tqdm import tqdm

    from kdrun.analysis.tables import aligned
    from kdrun.experiment.dry_run import Estimator, duration, with_teachers
    from kdrun.tables.controls import objective

    estimator = Estimator(table.shared.device)
    names = {entry.specs[0].run_id: entry.row.name for entry in table.entries if entry.specs}
    members: dict[str, list[Spec]] = {}
    for spec, _ in with_teachers([spec for entry in table.entries for spec in entry.specs]):
        members.setdefault(repr(_without_seed(spec)), []).append(spec)
    rows, total = [], 0.0
    for specs in tqdm(members.values(), desc="timing", leave=False, disable=None):
        first = specs[0]
        cost = estimator.estimate(first)
        missing = sum(store.find(spec) is None for spec in specs)
        total += missing * cost.seconds
        rows.append(
            [
                names.get(first.run_id) or _teacher_name(first),
                objective(first),
                f"{cost.params / 1e6:.3f}",
                f"{cost.macs / 1e6:.2f}",
                str(first.epochs_trained),
                str(first.recipe.batch_size),
                duration(cost.seconds),
                f"{len(specs)}" + (f" ({len(specs) - missing} finished)" if missing < len(specs) else ""),
            ]
        )
    header = ["run", "objective", "params M", "MACs M", "epochs", "batch", "time each", "runs"]
    runs = sum(len(specs) for specs in members.values())
    summary = f"{runs} runs; what is missing takes about {duration(total)} on {table.shared.device.type}"
    return f"{aligned(header, rows, left=2)}\n{summary}"


def _teacher_name(spec: Spec) -> str:
    stopped = "" if spec.stop_epoch is None else f" at epoch {spec.stop_epoch} of {spec.recipe.epochs}"
    return f"teacher {spec.student.name}{stopped}"


def _without_seed(spec: Spec) -> Spec:
    teachers = tuple(_without_seed(teacher) for teacher in spec.teachers)
    return dataclasses.replace(spec, seed=0, teachers=teachers)
