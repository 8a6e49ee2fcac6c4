"""A paper's table in numbers: every row over its seeds, and against its baseline."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdrun.analysis.aggregate import Statistic
from kdrun.analysis.differences import Difference, difference
from kdrun.experiment.derived import Derived
from kdrun.spec.components import all_options
from kdrun.spec.spec import Spec
from kdrun.store.run import Run
from kdrun.tables import Entry, Row
from kdrun.tables.measure import TOP1, Measure

LAST, BEST = "ours, last epoch", "best on test"
"""Columns that every row with runs has."""


@dataclass(frozen=True)
class Line:
    """A row with what its runs found, or what is derived from runs; what is not known is None.

    Attributes:
        entry: the row and its specs.
        student: its name; where the table has networks of the same name, with the options that tell them apart.
        runs: the finished ones, by position of the seed in `entry.specs`; none of a derived row.
        last: the table's measure (top-1 in percent, or errors) on the test set, of the last epoch.
        best: of the epoch that is best on the test set.
        difference_last: to the baseline: run by run of the same seed, over the seeds that both have finished; of means
            where the runs have other seeds than the baseline's.
        difference_best: likewise.
        difference_of_means_last: mean of the row less mean of the baseline, over whatever each has finished.
        difference_published: the published figure less that of the published baseline, never a printed gain where
            there is a figure.
        difference_departs: whether one of these two is published for another setting.
        teacher: of the teachers' last epoch, each teacher once.
        missing: runs or derived figures asked for and not finished.
        devices: that computed the runs, each once.
        seconds: of an epoch, training alone.
        extra_params: what is learned beside the student.
        ensemble: of the mean probabilities of the runs.
        teacher_confidence: the teachers' largest probability, mean over the test images, each teacher once.
        train_top1: top-1 of the last epoch on the training images, in training mode.
        selected: on the test set, of the epoch that is best on the validation images.
        errors_on: errors on the classes that the row names.
        shares: of each weighted term in the gradient, in percent, in the last epoch that has some.
        figures: what a derived row finds beside the metrics, and what the runs answered in the table's evaluations, the
            evaluation's name before that of the figure.
        values: the numbers behind the means, by column and position of the seed.
        sampling_error: of one run's top-1 in percent, where its examples have several labels each: their errors are not
            independent, and the error is by example; mean over the runs. None elsewhere.
    """

    entry: Entry
    student: str
    runs: Mapping[int, Run]
    last: Statistic | None
    best: Statistic | None
    difference_last: Difference | None
    difference_best: Difference | None
    difference_of_means_last: float | None
    difference_published: float | None
    difference_departs: bool
    teacher: Statistic | None
    missing: int
    devices: tuple[str, ...]
    seconds: Statistic | None = None
    extra_params: int | None = None
    ensemble: float | None = None
    teacher_confidence: Statistic | None = None
    train_top1: Statistic | None = None
    selected: Statistic | None = None
    errors_on: Statistic | None = None
    shares: Mapping[str, Statistic] = field(default_factory=dict)
    figures: Mapping[str, Statistic] = field(default_factory=dict)
    values: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    sampling_error: float | None = None

    @property
    def finished(self) -> int:
        """Of how many seeds there are figures."""
        return self.entry.asked - self.missing


@dataclass(frozen=True)
class Archive:
    """Where figures are found.

    Attributes:
        find: the finished run of a spec, or None.
        kept: what was computed of finished runs, or None.
        columns: of the definition; for some of them more than results is read.
        evaluations: of the definition.
        measure: of the definition.
    """

    find: Callable[[Spec], Run | None]
    kept: Callable[[Derived], Mapping[str, Any] | None] = lambda _: None
    columns: Sequence[str] = ()
    measure: Measure = TOP1
    evaluations: Sequence[str] = ()


@dataclass(frozen=True)
class _Found:
    """What is read from the results of a row; everything by position of the seed, but the teachers by run_id."""

    runs: dict[int, Run]
    last: dict[int, float]
    best: dict[int, float]
    teachers: dict[str, float]
    confidence: dict[str, float]
    devices: tuple[str, ...]
    seconds: dict[int, float]
    extra_params: int | None
    train_top1: dict[int, float]
    selected: dict[int, float]
    errors_on: dict[int, float]
    shares: dict[str, dict[int, float]]
    ensemble: float | None
    figures: dict[str, dict[int, float]]
    sampling_errors: list[float]


def compare(entries: Sequence[Entry], archive: Archive) -> list[Line]:
    """Every row with its runs, in the order of the entries.

    Args:
        entries: rows; the baselines they name are among them, under their own name or as `same_as`.
        archive: where figures are found.
    """
    found = [_read(entry, archive) for entry in entries]
    place = {name: i for i, entry in enumerate(entries) for name in (entry.row.name, *entry.same_as)}
    students = _students(entries)
    lines = []
    for i, entry in enumerate(entries):
        baseline = None if entry.row.baseline is None else place[entry.row.baseline]
        if baseline is None or baseline == i:
            lines.append(_line(entry, students[i], found[i], None, None))
        else:
            lines.append(_line(entry, students[i], found[i], entries[baseline], found[baseline]))
    return lines


def baseline_of(line: Line, lines: Sequence[Line]) -> Line | None:
    """The line that a line is compared with; None for baselines."""
    name = line.entry.row.baseline
    others = (other for other in lines if other is not line)
    return next((other for other in others if name in (other.entry.row.name, *other.entry.same_as)), None)


def _read(entry: Entry, archive: Archive) -> _Found:
    """Reads each result once."""
    runs = {i: run for i, spec in enumerate(entry.specs) if (run := archive.find(spec)) is not None}
    results = {i: run.result() for i, run in runs.items()}
    records = {i: record for i, each in enumerate(entry.derived) if (record := archive.kept(each)) is not None}
    columns, by_class = archive.columns, entry.by_class if entry.row.errors_on else ()
    errors = {i: record["class_errors"] for i, each in enumerate(by_class) if (record := archive.kept(each))}
    num_labels = 0 if entry.first is None else entry.first.dataset.num_test_labels

    def measured(metrics: Mapping[str, Any]) -> float:
        return archive.measure.of(metrics["top1"], num_labels)

    known = archive.kept(entry.ensemble) if entry.ensemble is not None and "ensemble" in columns else None
    return _Found(
        runs=runs,
        last={i: measured(result["test"]["last"]) for i, result in {**results, **records}.items()},
        best={i: measured(result["test"]["best"]) for i, result in results.items()},
        teachers=_teachers(entry, results, archive.measure),
        confidence={
            teacher["run_id"]: teacher["confidence"]
            for result in results.values()
            for teacher in result["teachers"]
            if "confidence" in teacher
        },
        devices=tuple(dict.fromkeys(result["environment"]["device"] for result in results.values())),
        seconds={i: result["train"]["seconds"] / result["epochs"] for i, result in results.items() if result["epochs"]},
        extra_params=next((result["train"].get("extra_params") for result in results.values()), None),
        train_top1=_train_top1(runs) if "train_top1" in columns else {},
        selected={
            i: measured(result["val"]["selected"]["test"])
            for i, result in results.items()
            if "val" in result and "selected" in columns
        },
        shares=_shares(results) if "shares" in columns else {},
        errors_on={i: sum(counts[name] for name in entry.row.errors_on) for i, counts in errors.items()},
        ensemble=None if known is None else measured(known["test"]["last"]),
        figures={
            **{
                name: {i: record["figures"][name] for i, record in records.items()}
                for name in (entry.derived[0].figures if entry.derived else ())
            },
            **_answers(entry, archive),
        },
        sampling_errors=[
            result["test"]["last"]["top1_se"] for result in results.values() if "top1_se" in result["test"]["last"]
        ],
    )


def _shares(results: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """The last shares of each run, by term; results of runs with a single term have none."""
    found: dict[str, dict[int, float]] = {}
    for i, result in results.items():
        for stage in result.get("shares", [])[-1:]:
            for name, share in stage["last"]["percent"].items():
                found.setdefault(name, {})[i] = share
    return found


def _answers(entry: Entry, archive: Archive) -> dict[str, dict[int, float]]:
    """What a row's runs answered in the evaluations, by column."""
    found: dict[str, dict[int, float]] = {}
    for on in archive.evaluations:
        for i, asked in enumerate(entry.evaluations(on)):
            record = archive.kept(asked)
            for name, value in record["figures"].items() if record else ():
                found.setdefault(f"{on} {name}", {})[i] = value
    return found


def _teachers(entry: Entry, results: Mapping[int, Mapping[str, Any]], measure: Measure) -> dict[str, float]:
    """The measure of each teacher, on the test set of its own dataset."""
    return {
        told["run_id"]: measure.of(told["top1"], teacher.dataset.num_test_labels)
        for i, result in results.items()
        for teacher, told in zip(entry.specs[i].teachers, result["teachers"], strict=False)
    }


def _train_top1(runs: Mapping[int, Run]) -> dict[int, float]:
    """Of the last epoch, as it was logged; nothing of a run that trained none."""
    rows = {i: run.rows() for i, run in runs.items()}
    return {i: epochs[-1]["train"]["top1"] for i, epochs in rows.items() if epochs}


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
    """An option as a person says it: `800-800` for the widths of two layers."""
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _line(entry: Entry, student: str, found: _Found, baseline: Entry | None, base: _Found | None) -> Line:
    last, published = _statistic(found.last.values()), entry.row.published
    of_means, of_published, departs = None, None, bool(entry.row.departs)
    same_seeds = baseline is not None and entry.seeds == baseline.seeds
    if base is not None and baseline is not None:
        base_last, base_published = _statistic(base.last.values()), baseline.row.published.figure
        of_means = None if last is None or base_last is None else last.mean - base_last.mean
        if published.figure is None:
            of_published = published.gain
        elif base_published is not None:
            of_published = published.figure - base_published
            departs = departs or bool(baseline.row.departs)
    return Line(
        entry=entry,
        student=student,
        runs=found.runs,
        last=last,
        best=_statistic(found.best.values()),
        difference_last=None if base is None else difference(found.last, base.last, same_seeds=same_seeds),
        difference_best=None if base is None else difference(found.best, base.best, same_seeds=same_seeds),
        difference_of_means_last=of_means,
        difference_published=of_published,
        difference_departs=departs,
        teacher=_statistic(found.teachers.values()),
        missing=entry.asked - len(found.last),
        devices=found.devices,
        seconds=_statistic(found.seconds.values()),
        extra_params=found.extra_params,
        teacher_confidence=_statistic(found.confidence.values()),
        ensemble=found.ensemble,
        train_top1=_statistic(found.train_top1.values()),
        selected=_statistic(found.selected.values()),
        errors_on=_statistic(found.errors_on.values()),
        shares={name: Statistic.of(list(values.values())) for name, values in found.shares.items()},
        figures={name: Statistic.of(list(values.values())) for name, values in found.figures.items() if values},
        values={column: values for column, values in _columns(entry.row, found) if values},
        sampling_error=statistics.fmean(found.sampling_errors) if found.sampling_errors else None,
    )


def _columns(row: Row, found: _Found) -> Iterator[tuple[str, Mapping[int, float]]]:
    """What rows are compared in, by the names of their columns."""
    yield LAST, found.last
    yield BEST, found.best
    yield "selected on val", found.selected
    yield errors_column(row), found.errors_on
    yield from found.figures.items()


def errors_column(row: Row) -> str:
    """The name of the column with a row's errors on some classes."""
    return f"errors on {', '.join(map(str, row.errors_on))}"


def _statistic(values: Iterable[float]) -> Statistic | None:
    numbers = list(values)
    return Statistic.of(numbers) if numbers else None
