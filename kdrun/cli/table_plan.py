"""A table's runs and their cost, before anything is run."""

from __future__ import annotations

import dataclasses

from kdrun.config.table import ComposedTable
from kdrun.escaping import aligned
from kdrun.experiment.dry_run import Estimator, duration, with_teachers
from kdrun.spec.spec import Spec
from kdrun.store.store import Store
from kdrun.tables.controls import objective


def plan(table: ComposedTable, store: Store) -> str:
    """Every run of the table with its cost; runs that differ in their seed share a line.

    Derived rows follow, which cost next to nothing; runs of figures alone come last.
    """
    shown = {spec.run_id: entry.row.name for entry in table.entries for spec in entry.specs}
    parts = {spec.run_id: spec for entry in table.entries for each in entry.derived for spec in each.specs}
    names = {**{run_id: f"{spec.student.name}, a part of rows" for run_id, spec in parts.items()}, **shown}
    members: dict[str, list[Spec]] = {}
    every = with_teachers([*(spec for entry in table.entries for spec in entry.specs), *parts.values()])
    estimator = Estimator((spec for spec, _ in every), table.shared.runtime.device, table.shared.runtime.threads)
    for spec, _ in every:
        members.setdefault(repr(_without_seed(spec)), []).append(spec)
    rows, total = [], 0.0
    for specs in members.values():
        first = specs[0]
        cost = estimator.estimate(first)
        missing = sum(store.find(spec) is None for spec in specs)
        total += missing * cost.seconds
        rows.append(
            [
                next((names[spec.run_id] for spec in specs if spec.run_id in names), None) or _teacher_name(first),
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
    only_parts = len(parts.keys() - shown.keys())
    teachers = runs - len(shown) - only_parts
    derived = "".join(
        f"{entry.row.name}: computed from other runs, {entry.derived[0].words()}\n"
        for entry in table.entries
        if entry.derived
    )
    also = "".join(
        f"{', '.join(entry.same_as)}: the same runs as {entry.row.name}\n" for entry in table.entries if entry.same_as
    )
    return (
        f"{aligned(header, rows, left=2)}\n{also}{derived}{estimator.basis()}\n"
        f"{runs} runs, {teachers} of them only as teachers"
        f"{f' and {only_parts} only as parts of rows' if only_parts else ''}; "
        f"what is missing takes about {duration(total)} on {table.shared.runtime.device.type}"
        f"{_further(table, store, estimator)}"
    )


def _further(table: ComposedTable, store: Store, estimator: Estimator) -> str:
    """A line for each figure that executes further runs; of runs that continue one another the longest counts."""
    lines = []
    for figure in table.definition.figures:
        runs = [run for derived in figure.needs(table.entries) for run in derived.further]
        missing = [run for run in runs if store.find(run) is None]
        longest = {dataclasses.replace(run, stop_epoch=None).run_id: run for run in missing}
        seconds = sum(estimator.estimate(run).seconds for run in longest.values())
        finished = f" ({len(runs) - len(missing)} finished)" if len(missing) < len(runs) else ""
        if runs:
            lines.append(
                f"\n{figure.name}: {len(runs)} runs{finished} for this figure alone are trained afterwards; "
                f"what is missing of them takes about {duration(seconds)} more"
            )
    return "".join(lines)


def _teacher_name(spec: Spec) -> str:
    stopped = "" if spec.stop_epoch is None else f" at epoch {spec.stop_epoch} of {spec.recipe.epochs}"
    return f"teacher {spec.student.name}{stopped}"


def _without_seed(spec: Spec) -> Spec:
    teachers = tuple(_without_seed(teacher) for teacher in spec.teachers)
    return dataclasses.replace(spec, seed=0, teachers=teachers)
