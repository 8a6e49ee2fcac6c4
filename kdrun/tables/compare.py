"""A paper's table in numbers: every row over its seeds, and against its baseline."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdrun.analysis.aggregate import Statistic
from kdrun.analysis.differences import Difference, difference
from kdrun.experiment.derived import Derived
from kdrun.spec.components import all_options
from kdrun.spec.spec import Spec
from kdrun.store.run import Run
from kdrun.tables import Entry, Published, Row
from kdrun.tables.measure import TOP1, Measure

LAST, BEST, SELECTED = "ours, last epoch", "best on test", "selected on val"
TRAIN, TEACHER, CONFIDENCE, SECONDS = "train top-1", "teacher", "its confidence", "s / epoch"
"""Columns of numbers, beside `errors_column` and the figures of evaluations and derived rows."""


@dataclass(frozen=True)
class Line:
    """A row with the results of its runs, or with what is derived from runs; unknown numbers are None or absent.

    Attributes:
        entry: the row and its specs.
        student: its name; where the table has networks of the same name, with the options in which they differ.
        runs: the finished ones, by position of the seed in `entry.specs`; none of a derived row.
        values: in which rows are compared: by column, then by position of the seed.
        statistics: over the seeds, or over different teachers, by column.
        figures: likewise, of the columns that derived rows and evaluations add; an evaluation's name comes first.
        devices: that computed the runs, each once.
        extra_params: number of parameters learned beside the student.
        ensemble: the measure of the mean probabilities of the runs.
        shares: of each weighted term in the gradient, in percent, in the last epoch that has some.
        sampling_error: of one run's top-1 in percent, where its examples have several labels each: their errors are not
            independent, and the error is by example; mean over the runs. None elsewhere.
        difference_last: to the baseline: run by run of the same seed, over the seeds that both have finished; of means
            where the runs have other seeds than the baseline's.
        difference_best: likewise.
        difference_of_means_last: mean of the row less mean of the baseline, over whatever each has finished.
        difference_published: the published figure less that of the published baseline, never a printed gain where
            there is a figure.
        difference_departs: whether one of these two is published for another setting.
    """

    entry: Entry
    student: str
    runs: Mapping[int, Run] = field(default_factory=dict)
    values: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    statistics: Mapping[str, Statistic] = field(default_factory=dict)
    figures: Mapping[str, Statistic] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    extra_params: int | None = None
    ensemble: float | None = None
    shares: Mapping[str, Statistic] = field(default_factory=dict)
    sampling_error: float | None = None
    difference_last: Difference | None = None
    difference_best: Difference | None = None
    difference_of_means_last: float | None = None
    difference_published: float | None = None
    difference_departs: bool = False

    @property
    def published(self) -> Published:
        """The figures that a paper prints for the row."""
        return self.entry.row.published

    @property
    def last(self) -> Statistic | None:
        """The table's measure (top-1 in percent, or errors) on the test set, of the last epoch."""
        return self.statistics.get(LAST)

    @property
    def best(self) -> Statistic | None:
        """Of the epoch that is best on the test set."""
        return self.statistics.get(BEST)

    @property
    def teacher(self) -> Statistic | None:
        """Of the teachers' last epoch, each teacher once."""
        return self.statistics.get(TEACHER)

    @property
    def finished(self) -> int:
        """The number of seeds with results."""
        return len(self.values.get(LAST, ()))

    @property
    def missing(self) -> int:
        """The number of runs or derived figures that are not finished."""
        return self.entry.asked - self.finished

    def published_runs(self, elsewhere: Path | None) -> int:
        """The number of runs that are stored in a directory of published results."""
        return sum(elsewhere is not None and run.directory.is_relative_to(elsewhere) for run in self.runs.values())


@dataclass(frozen=True)
class Archive:
    """Where figures are found.

    Attributes:
        find: the finished run of a spec, or None.
        kept: what was computed of finished runs, or None.
        columns: of the definition.
        evaluations: of the definition.
        measure: of the definition.
    """

    find: Callable[[Spec], Run | None]
    kept: Callable[[Derived], Mapping[str, Any] | None] = lambda _: None
    columns: Sequence[str] = ()
    measure: Measure = TOP1
    evaluations: Sequence[str] = ()


def compare(entries: Sequence[Entry], archive: Archive) -> list[Line]:
    """Every row with its runs, in the order of the entries.

    Args:
        entries: rows; the baselines they name are among them, under their own name or as `same_as`.
        archive: where figures are found.
    """
    lines = [_read(entry, student, archive) for entry, student in zip(entries, _students(entries), strict=True)]
    return [_less(line, baseline_of(line, lines)) for line in lines]


def baseline_of(line: Line, lines: Sequence[Line]) -> Line | None:
    """The line that a line is compared with; None for baselines."""
    name = line.entry.row.baseline
    others = (other for other in lines if other is not line)
    return next((other for other in others if name in (other.entry.row.name, *other.entry.same_as)), None)


def errors_column(row: Row) -> str:
    """The name of the column with a row's errors on some classes."""
    return f"errors on {', '.join(map(str, row.errors_on))}"


def figures_of(lines: Sequence[Line]) -> list[str]:
    """The columns of derived rows and evaluations, ours and the published ones, each once."""
    ours, printed = ([*line.figures] for line in lines), ([*line.published.figures] for line in lines)
    return list(dict.fromkeys(itertools.chain(*ours, *printed)))


def _read(entry: Entry, student: str, archive: Archive) -> Line:
    """The numbers of a row by itself; each result is read once."""
    runs = {i: run for i, spec in enumerate(entry.specs) if (run := archive.find(spec)) is not None}
    results = {i: run.result() for i, run in runs.items()}
    records = {i: record for i, each in enumerate(entry.derived) if (record := archive.kept(each)) is not None}
    columns = archive.columns
    num_labels = 0 if entry.first is None else entry.first.dataset.num_test_labels

    def measured(metrics: Mapping[str, Any]) -> float:
        return archive.measure.of(metrics["top1"], num_labels)

    values = {
        LAST: {i: measured(result["test"]["last"]) for i, result in {**results, **records}.items()},
        BEST: {i: measured(result["test"]["best"]) for i, result in results.items()},
    }
    if "selected" in columns:
        values[SELECTED] = {i: measured(r["val"]["selected"]["test"]) for i, r in results.items() if "val" in r}
    if entry.row.errors_on:
        values[errors_column(entry.row)] = _errors_on(entry, archive)
    figures = {**_derived_figures(entry, records), **_answers(entry, archive)}
    known = archive.kept(entry.ensemble) if entry.ensemble is not None and "ensemble" in columns else None
    sampling_errors = [r["test"]["last"]["top1_se"] for r in results.values() if "top1_se" in r["test"]["last"]]
    return Line(
        entry,
        student,
        runs,
        {column: found for column, found in {**values, **figures}.items() if found},
        _statistics({**values, **_beside(entry, runs, results, archive)}),
        _statistics(figures),
        devices=tuple(dict.fromkeys(result["environment"]["device"] for result in results.values())),
        extra_params=next((result["train"].get("extra_params") for result in results.values()), None),
        ensemble=None if known is None else measured(known["test"]["last"]),
        shares=_statistics(_shares(results)) if "shares" in columns else {},
        sampling_error=statistics.fmean(sampling_errors) if sampling_errors else None,
    )


def _beside(
    entry: Entry, runs: Mapping[int, Run], results: Mapping[int, Mapping[str, Any]], archive: Archive
) -> dict[str, dict[Any, float]]:
    """What is shown and not compared: of teachers by run_id, so that each counts once, of runs by position."""
    columns, measure = archive.columns, archive.measure
    taught = [
        each for i, result in results.items() for each in zip(entry.specs[i].teachers, result["teachers"], strict=False)
    ]
    beside: dict[str, dict[Any, float]] = {
        TEACHER: {found["run_id"]: measure.of(found["top1"], spec.dataset.num_test_labels) for spec, found in taught}
    }
    if "teacher_confidence" in columns:
        beside[CONFIDENCE] = {found["run_id"]: found["confidence"] for _, found in taught if "confidence" in found}
    if "seconds" in columns:
        beside[SECONDS] = {i: r["train"]["seconds"] / r["epochs"] for i, r in results.items() if r["epochs"]}
    if "train_top1" in columns:
        rows = {i: run.rows() for i, run in runs.items()}
        beside[TRAIN] = {i: epochs[-1]["train"]["top1"] for i, epochs in rows.items() if epochs}
    return beside


def _errors_on(entry: Entry, archive: Archive) -> dict[int, float]:
    """Errors on the classes that a row names."""
    records = {i: record for i, each in enumerate(entry.by_class) if (record := archive.kept(each))}
    return {i: sum(record["class_errors"][name] for name in entry.row.errors_on) for i, record in records.items()}


def _derived_figures(entry: Entry, records: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    names = entry.derived[0].figures if entry.derived else ()
    return {name: {i: record["figures"][name] for i, record in records.items()} for name in names}


def _shares(results: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """The last shares of each run, by term; results of runs with a single term have none."""
    found: dict[str, dict[int, float]] = {}
    for i, result in results.items():
        for stage in result.get("shares", [])[-1:]:
            for name, share in stage["last"]["percent"].items():
                found.setdefault(name, {})[i] = share
    return found


def _answers(entry: Entry, archive: Archive) -> dict[str, dict[int, float]]:
    """The figures of the evaluations of a row's runs, by column."""
    found: dict[str, dict[int, float]] = {}
    for on in archive.evaluations:
        for i, asked in enumerate(entry.evaluations(on)):
            record = archive.kept(asked)
            for name, value in record["figures"].items() if record else ():
                found.setdefault(f"{on} {name}", {})[i] = value
    return found


def _statistics(values: Mapping[str, Mapping[Any, float]]) -> dict[str, Statistic]:
    return {name: Statistic.of([*found.values()]) for name, found in values.items() if found}


def _less(line: Line, base: Line | None) -> Line:
    """The line with its differences to its baseline."""
    row, same_seeds = line.entry.row, base is not None and line.entry.seeds == base.entry.seeds
    if base is None:
        return replace(line, difference_departs=bool(row.departs))
    found = {
        column: difference(line.values.get(column, {}), base.values.get(column, {}), same_seeds=same_seeds)
        for column in (LAST, BEST)
    }
    printed, other = line.published, base.published.figure
    of_published, departs = printed.gain, bool(row.departs)
    if printed.figure is not None:
        of_published = None if other is None else printed.figure - other
        departs = departs or (other is not None and bool(base.entry.row.departs))
    return replace(
        line,
        difference_last=found[LAST],
        difference_best=found[BEST],
        difference_of_means_last=line.last.mean - base.last.mean if line.last and base.last else None,
        difference_published=of_published,
        difference_departs=departs,
    )


def _students(entries: Sequence[Entry]) -> list[str]:
    """What each student is called: `mlp`, or `mlp, hidden 30` where there are others of that name."""
    known: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        if entry.first is not None:
            known.setdefault(entry.student, []).append(all_options(entry.first.student))

    def called(entry: Entry) -> str:
        if entry.first is None:
            return entry.student
        others = known[entry.student]
        differing = [
            f"{name} {_plain(value)}"
            for name, value in all_options(entry.first.student).items()
            if any(other[name] != value for other in others)
        ]
        return ", ".join([entry.student, *differing])

    return [called(entry) for entry in entries]


def _plain(value: Any) -> str:
    """An option as readable text: `800-800` for the widths of two layers."""
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
