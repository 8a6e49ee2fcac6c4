"""A paper's table in numbers: every row over its seeds, and against its baseline, paired by seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdrun.analysis.aggregate import Statistic
from kdrun.experiment.run import Run
from kdrun.experiment.spec import Spec
from kdrun.tables import Entry


@dataclass(frozen=True)
class Line:
    """A row with what its runs found. Top-1 is in percent, on the test set; what no run has found is None.

    Attributes:
        entry: the row and its specs.
        runs: the finished ones, by position of the seed in `entry.specs`.
        last: top-1 of the last epoch.
        best: top-1 of the epoch that is best on the test set.
        difference_last: to the baseline, run by run of the same seed, over the seeds that both have finished.
        difference_best: likewise.
        difference_of_means_last: mean of the row less mean of the baseline, over whatever each has finished.
        difference_published: the published accuracy less that of the published baseline, never a printed gain where
            there is an accuracy.
        teacher: top-1 of the teachers' last epoch, each teacher once.
        missing: runs asked for and not finished.
        devices: that computed the runs, each once.
        seconds: of an epoch, training alone.
        extra_params: what is learned beside the student.
        ensemble: top-1 of the mean probabilities of the runs.
        teacher_confidence: the teachers' largest probability, mean over the test images, each teacher once.
    """

    entry: Entry
    runs: Mapping[int, Run]
    last: Statistic | None
    best: Statistic | None
    difference_last: Statistic | None
    difference_best: Statistic | None
    difference_of_means_last: float | None
    difference_published: float | None
    teacher: Statistic | None
    missing: int
    devices: tuple[str, ...]
    seconds: Statistic | None = None
    extra_params: int | None = None
    ensemble: float | None = None
    teacher_confidence: Statistic | None = None


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


def compare(
    entries: Sequence[Entry], find: Callable[[Spec], Run | None], ensembles: Mapping[str, float] | None = None
) -> list[Line]:
    """Every row with its runs, in the order of the entries.

    Args:
        entries: rows; the baselines they name are among them, under their own name or as `same_as`.
        find: the finished run of a spec, or None.
        ensembles: top-1 of the mean probabilities of a row's runs, by the row's name.
    """
    found = [_read(entry, find) for entry in entries]
    place = {name: i for i, entry in enumerate(entries) for name in (entry.row.name, *entry.same_as)}
    lines = []
    for i, entry in enumerate(entries):
        baseline = None if entry.row.baseline is None else place[entry.row.baseline]
        if baseline is None or baseline == i:
            lines.append(_line(entry, found[i], None, None))
        else:
            lines.append(_line(entry, found[i], entries[baseline], found[baseline]))
    known = ensembles or {}
    return [dataclasses.replace(line, ensemble=known.get(line.entry.row.name)) for line in lines]


def baseline_of(line: Line, lines: Sequence[Line]) -> Line | None:
    """The line that a line is compared with; None for baselines."""
    name = line.entry.row.baseline
    others = (other for other in lines if other is not line)
    return next((other for other in others if name in (other.entry.row.name, *other.entry.same_as)), None)


def _read(entry: Entry, find: Callable[[Spec], Run | None]) -> _Found:
    """Reads each result once."""
    runs = {i: run for i, spec in enumerate(entry.specs) if (run := find(spec)) is not None}
    results = {i: run.result() for i, run in runs.items()}
    return _Found(
        runs=runs,
        last={i: result["test"]["last"]["top1"] for i, result in results.items()},
        best={i: result["test"]["best"]["top1"] for i, result in results.items()},
        teachers={teacher["run_id"]: teacher["top1"] for result in results.values() for teacher in result["teachers"]},
        confidence={
            teacher["run_id"]: teacher["confidence"]
            for result in results.values()
            for teacher in result["teachers"]
            if "confidence" in teacher
        },
        devices=tuple(dict.fromkeys(result["environment"]["device"] for result in results.values())),
        seconds={i: result["train"]["seconds"] / result["epochs"] for i, result in results.items() if result["epochs"]},
        extra_params=next((result["train"].get("extra_params") for result in results.values()), None),
    )


def _line(entry: Entry, found: _Found, baseline: Entry | None, base: _Found | None) -> Line:
    last, published = _statistic(found.last.values()), entry.row.published
    of_means, of_published = None, None
    if base is not None and baseline is not None:
        base_last, base_published = _statistic(base.last.values()), baseline.row.published.top1
        of_means = None if last is None or base_last is None else last.mean - base_last.mean
        if published.top1 is None:
            of_published = published.gain
        elif base_published is not None:
            of_published = published.top1 - base_published
    return Line(
        entry=entry,
        runs=found.runs,
        last=last,
        best=_statistic(found.best.values()),
        difference_last=None if base is None else _paired(found.last, base.last),
        difference_best=None if base is None else _paired(found.best, base.best),
        difference_of_means_last=of_means,
        difference_published=of_published,
        teacher=_statistic(found.teachers.values()),
        missing=len(entry.specs) - len(found.runs),
        devices=found.devices,
        seconds=_statistic(found.seconds.values()),
        extra_params=found.extra_params,
        teacher_confidence=_statistic(found.confidence.values()),
    )


def _paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Statistic | None:
    return _statistic([value - baseline[i] for i, value in values.items() if i in baseline])


def _statistic(values: Iterable[float]) -> Statistic | None:
    numbers = list(values)
    return Statistic.of(numbers) if numbers else None
