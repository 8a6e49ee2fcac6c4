"""What a table costs, before anything is run."""

from __future__ import annotations

import dataclasses

from kdrun.analysis.tables import aligned
from kdrun.config.table import ComposedTable
from kdrun.experiment.dry_run import Estimator, duration, with_teachers
from kdrun.spec.spec import Spec
from kdrun.store.store import Store
from kdrun.tables.controls import objective
from kdrun.papers.abnar2020.paths_figure import ways


def plan(table: ComposedTable, store: Store) -> str:
    """Every run of the table with what it costs; runs that differ in their seed in one line, teachers once.

    What is computed of runs follows, and costs next to nothing; runs that are made for it alone are among the runs, but
    for the stopped ones of paths, which are told last.
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
        f"{_stopped(table, store, estimator)}"
    )


def _stopped(table: ComposedTable, store: Store, estimator: Estimator) -> str:
    """The runs that are trained to draw the paths alone, each going on from the one before."""
    asked = ways(table.entries, table.definition.paths) if "paths" in table.definition.figures else None
    if asked is None or not asked.stopped:
        return ""
    missing = [run for run in asked.stopped if store.find(run) is None]
    # of a row's runs the last is as long as all of them
    longest = {dataclasses.replace(run, stop_epoch=None).run_id: run for run in missing}
    seconds = sum(estimator.estimate(run).seconds for run in longest.values())
    finished = len(asked.stopped) - len(missing)
    return (
        f"\npaths: {len(asked.stopped)} runs{f' ({finished} finished)' if finished else ''} that stop early, of seed "
        f"{asked.specs[0].seed}, are trained afterwards; what is missing of them takes about {duration(seconds)} more"
    )


def _teacher_name(spec: Spec) -> str:
    stopped = "" if spec.stop_epoch is None else f" at epoch {spec.stop_epoch} of {spec.recipe.epochs}"
    return f"teacher {spec.student.name}{stopped}"


def _without_seed(spec: Spec) -> Spec:
    teachers = tuple(_without_seed(teacher) for teacher in spec.teachers)
    return dataclasses.replace(spec, seed=0, teachers=teachers)
