"""Executes a table's missing runs, seed by seed, and its computations on finished runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kdrun.cli.execution import ending_with_the_device, execute, report_bf16, runner_for
from kdrun.config.search import Search
from kdrun.config.table import ComposedTable
from kdrun.experiment.attempt import Request
from kdrun.experiment.derived import Derived, EvaluatedRun, compute, kept
from kdrun.experiment.runner import Runner
from kdrun.log import log
from kdrun.spec.spec import Spec
from kdrun.store.store import Store
from kdrun.tables import Entry


def run_missing(
    table: ComposedTable, store: Store, so_far: Callable[[], None], *, search: Search, directory: Path
) -> int:
    """Executes the runs that neither the output root nor the published results have, and computes on finished runs.

    Args:
        table: the table.
        store: of the runs.
        so_far: called after each seed but the last, to show the finished runs.
        search: the launcher of the runs; a launcher gets those of all seeds at once.
        directory: of the table.

    Returns:
        The number of failed runs and computations.
    """
    jobs, rounds = table.jobs, _rounds(table.entries)
    runner = runner_for([table.shared, *jobs.values()])
    total = sum(len(members) for members in rounds)
    every = [spec for members in rounds for _, spec in members]
    log.info("%s", runner.plan(every))
    finished = {spec.run_id: store.find(spec) for spec in every}
    pending = [spec for spec in every if finished[spec.run_id] is None]
    runner.announce(pending)
    report_bf16(pending, table.shared.runtime)
    number = failed = 0
    if not search.is_own:
        from kdrun.cli.launch import launched

        labels = {spec.run_id: f"{name} seed={spec.seed}" for members in rounds for name, spec in members}
        requests = [Request(spec, jobs[spec.run_id].config, labels[spec.run_id]) for spec in pending]
        failed = len(launched([table.shared, *jobs.values()], runner, search, directory, requests))
        rounds = []
    for members in rounds:
        missing = []
        for name, spec in members:
            label = f"{name} seed={spec.seed}"
            known = finished[spec.run_id]
            if known is None:
                missing.append(Request(spec, jobs[spec.run_id].config, label))
                continue
            number += 1
            top1 = known.result()["test"]["last"]["top1"]
            log.info("[%d/%d] %s: top-1 %.2f %% (finished before: %s)", number, total, label, top1, known.origin())
        failed += len(execute(runner, missing, before=number, total=total))
        number += len(missing)
        if number < total:
            so_far()
    if failed:
        log.error("%d of %d runs failed; the same command runs only what is missing", failed, total)
    return failed + _derive(table, store, runner)


def _derive(table: ComposedTable, store: Store, runner: Runner) -> int:
    """Does the missing computations on finished runs; returns the number of failures.

    They need weights: published results have none.
    """
    failed = 0
    root = table.shared.runtime.data_root
    lacking = {each.name: why for each in table.evaluations if (why := each.missing_files(root))}
    for name, why in lacking.items():
        log.info("evaluation %s: left out: %s", name, why)
    for name, derived in _computations(table):
        if isinstance(derived, EvaluatedRun) and derived.named.name in lacking:
            continue
        found = [store.find(spec) for spec in derived.specs]
        runs = [run for run in found if run is not None]
        if len(runs) < len(found) or kept(store, derived) is not None:
            continue
        if not all(run.weights.exists() for run in runs):
            log.info("%s: not computed: published results have no weights: %s", name, derived.words())
            continue
        with ending_with_the_device():
            try:
                compute(derived, runner)
            except (RuntimeError, OSError, ValueError) as error:  # of a run; or predictions without clusters
                log.error("%s: %s: %s", name, derived.words(), error)
                failed += 1
    return failed


def _computations(table: ComposedTable) -> Iterator[tuple[str, Derived]]:
    """The table's computations on finished runs, with the name of their row or figure."""
    for entry in table.entries:
        needed: list[Derived] = [*entry.derived, *(entry.by_class if entry.row.errors_on else ())]
        if entry.ensemble is not None and "ensemble" in table.definition.columns:
            needed.append(entry.ensemble)
        needed += [each for evaluation in table.evaluations for each in entry.evaluations(evaluation.name)]
        yield from ((entry.row.name, derived) for derived in needed)
    for figure in table.definition.figures:
        yield from ((figure.name, derived) for derived in figure.needs(table.entries))


def _rounds(entries: Sequence[Entry]) -> list[list[tuple[str, Spec]]]:
    """The runs of each seed, so that the whole table can be shown early; those with a teacher stopped early come first.

    A longer training of the same teacher then continues from the shorter. A run that only derived rows use is named
    after the first of these.
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
