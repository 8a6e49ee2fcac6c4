"""Runs grouped over their seeds: means, sample deviations, and how many runs stand behind them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kdrun.experiment.run import Run


@dataclass(frozen=True)
class SweepRun:
    """One job of a sweep.

    Attributes:
        choices: value by swept key, as typed.
        run: its place in the store.
        teachers: its teachers' places.
        error: why it did not finish; None when it did.
    """

    choices: dict[str, str]
    run: Run
    teachers: tuple[Run, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation (n - 1) of n numbers; the deviation of one number is None."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    @property
    def standard_error(self) -> float | None:
        """Of the mean: deviation / sqrt(n); None for one number."""
        return None if self.deviation is None else self.deviation / math.sqrt(self.n)

    def text(self, digits: int = 2) -> str:
        deviation = "" if self.deviation is None else f" ± {self.deviation:.{digits}f}"
        return f"{self.mean:.{digits}f}{deviation}"


@dataclass
class Group:
    """Finished runs that differ in their seed only.

    Attributes:
        label: what distinguishes the group, for tables and legends.
        choices: value by swept key, without the seed.
        runs: finished runs.
        missing: how many more were asked for and did not finish.
    """

    label: str
    choices: dict[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    missing: int = 0

    def statistic(self, *path: str) -> Statistic | None:
        """Over the runs, of a number in `result.json` such as `("test", "last", "top1")`; None where it is absent."""
        values = [value for run in self.runs if (value := _lookup(run.result(), path)) is not None]
        return Statistic.of(values) if values else None

    def curve(self, split: str, metric: str) -> list[Statistic]:
        """A metric after each epoch, as far as all the runs go."""
        rows = [run.rows() for run in self.runs]
        return [Statistic.of([row[split][metric] for row in epoch]) for epoch in zip(*rows, strict=False)]


def group_by_seed(runs: Sequence[SweepRun]) -> list[Group]:
    """The jobs of a sweep, grouped by everything they choose but the seed, in the order of their first run."""
    groups: dict[tuple[tuple[str, str], ...], Group] = {}
    for job in runs:
        choices = {key: value for key, value in job.choices.items() if key != "seed"}
        label = ", ".join(f"{key}={value}" for key, value in choices.items())
        group = groups.setdefault(tuple(choices.items()), Group(label or _run_label(job.run), choices))
        if job.error is not None:
            group.missing += 1
        elif job.run.directory not in {run.directory for run in group.runs}:
            group.runs.append(job.run)
    return list(groups.values())


def teachers_by_seed(runs: Sequence[SweepRun]) -> list[Group]:
    """The finished teachers of a sweep, each once, grouped by everything but the seed."""
    groups: dict[str, Group] = {}
    seen = set()
    for teacher in (teacher for job in runs for teacher in job.teachers if teacher.finished):
        if teacher.directory in seen:
            continue
        seen.add(teacher.directory)
        canonical = {name: value for name, value in teacher.spec.canonical().items() if name != "seed"}
        group = groups.setdefault(repr(canonical), Group(f"teacher {_run_label(teacher)}"))
        group.runs.append(teacher)
    return list(groups.values())


def _run_label(run: Run) -> str:
    stopped = f" stopped at {run.spec.stop_epoch}" if run.spec.stop_epoch is not None else ""
    return f"{run.spec.student.name} {run.directory.name.rpartition('-')[0]}{stopped}"


def _lookup(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
