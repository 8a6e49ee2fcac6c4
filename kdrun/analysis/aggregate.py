"""Runs grouped over their seeds: means, sample deviations, and how many runs stand behind them."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdrun.spec.components import all_options, method_class
from kdrun.spec.spec import Spec
from kdrun.store.run import Run


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
        peer: name of a network that the method trains beside the student; None is the student.
    """

    label: str
    choices: dict[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    missing: int = 0
    peer: str | None = None

    @functools.cached_property
    def _results(self) -> list[dict[str, Any]]:
        return [run.result() for run in self.runs]

    def statistic(self, *path: str) -> Statistic | None:
        """Over the runs, of a number in `result.json` such as `("test", "last", "top1")`; None where it is absent."""
        place = path if self.peer is None else ("peers", self.peer, *path)
        values = [value for result in self._results if (value := _lookup(result, place)) is not None]
        return Statistic.of(values) if values else None

    def curve(self, split: str, metric: str) -> dict[int, Statistic]:
        """A metric by the epochs (from 1) after which all the runs were evaluated."""
        values = [
            {row["epoch"]: part[split][metric] for row in run.rows() if split in (part := self._part(row))}
            for run in self.runs
        ]
        shared = [epoch for epoch in (values[0] if values else ()) if all(epoch in one for one in values)]
        return {epoch: Statistic.of([one[epoch] for one in values]) for epoch in shared}

    def _part(self, row: dict[str, Any]) -> dict[str, Any]:
        """The part of a row of metrics for this network; empty for a peer in an epoch without evaluation."""
        part: dict[str, Any] = row if self.peer is None else row.get("peers", {}).get(self.peer, {})
        return part

    @property
    def peers(self) -> list[Group]:
        """The networks that were trained beside these students, a group each."""
        names = dict.fromkeys(name for result in self._results for name in result.get("peers", {}))
        return [Group(f"{self.label}: {name}", runs=self.runs, peer=name) for name in names]

    @property
    def stage2_begins_after(self) -> int | None:
        """The last epoch of the first of two stages; None where there is one stage, or the second is never seen."""
        (stage1_epochs, *others) = {run.spec.stage1_epochs for run in self.runs} or {0}
        seen = any(run.spec.epochs_trained > stage1_epochs for run in self.runs)
        return stage1_epochs if stage1_epochs and not others and seen else None


def group_by_seed(runs: Sequence[SweepRun]) -> list[Group]:
    """The jobs of a sweep, grouped by everything they choose but the seed, in the order of their first run."""
    groups: dict[tuple[tuple[str, str], ...], Group] = {}
    for job in runs:
        choices = {key: value for key, value in job.choices.items() if key != "seed"}
        label = ", ".join(f"{key}={value}" for key, value in choices.items())
        group = groups.setdefault(tuple(choices.items()), Group(label or _label(job.run.spec), choices))
        if job.error is not None:
            group.missing += 1
        elif job.run.directory not in {run.directory for run in group.runs}:
            group.runs.append(job.run)
    return list(groups.values())


def teachers_by_seed(runs: Sequence[SweepRun]) -> list[Group]:
    """The finished teachers of a sweep, grouped by everything but their seeds, and by their students.

    The students of a sweep can have different teachers of one kind (an ensemble has those of further seeds): each set
    of them is a group. Groups of one name are distinguished by their students' choices.
    """
    of_students: dict[tuple[str, str, tuple[tuple[str, str], ...]], dict[Path, Run]] = {}
    for job in runs:
        student = tuple((key, value) for key, value in job.choices.items() if key != "seed")
        for teacher in job.teachers:
            label = f"teacher {_label(teacher.spec)}{_ancestry(teacher.spec)}{_elsewhere(teacher.spec, job.run.spec)}"
            kind = repr(_but_for_seeds(teacher.spec))
            of_students.setdefault((label, kind, student), {})[teacher.directory] = teacher
    groups: dict[tuple[str, frozenset[Path]], Group] = {}
    students: dict[tuple[str, frozenset[Path]], list[dict[str, str]]] = {}
    for (label, kind, student), teachers in of_students.items():
        finished = [teacher for teacher in teachers.values() if teacher.finished]
        if finished:
            key = kind, frozenset(teachers)
            groups.setdefault(key, Group(label, runs=finished))
            students.setdefault(key, []).append(dict(student))
    labels = {key: group.label for key, group in groups.items()}
    for key, group in groups.items():
        alike = [choices for other, label in labels.items() if label == group.label for choices in students[other]]
        if len(alike) > len(students[key]):
            group.label += f" of {_choices_apart(students[key], alike)}"
    return list(groups.values())


def _but_for_seeds(spec: Spec) -> Spec:
    return dataclasses.replace(spec, seed=0, teachers=tuple(_but_for_seeds(teacher) for teacher in spec.teachers))


def _choices_apart(some: Sequence[Mapping[str, str]], all_: Sequence[Mapping[str, str]]) -> str:
    """The choices of some students of a sweep, by the keys in which they differ from the others."""
    parts = []
    for key in dict.fromkeys(key for choices in all_ for key in choices):
        values = list(dict.fromkeys(choices[key] for choices in some if key in choices))
        if len(values) < len({choices.get(key) for choices in all_}):
            parts.append(f"{key}={','.join(values[:3])}{',...' if len(values) > 3 else ''}")
    return ", ".join(parts)


def _label(spec: Spec) -> str:
    """A run in words: its network, its method, and where it was stopped."""
    method = method_class(spec.method)
    generation = f" generation {all_options(spec.method)['generation']}" if method.needs.generations else ""
    stopped = "" if spec.stop_epoch is None else f" stopped at {spec.stop_epoch}"
    stage = ", in stage 1" if spec.stopped_in_stage1 else ""
    return f"{spec.student.name} {method.name}{generation}{stopped}{stage}"


def _ancestry(spec: Spec) -> str:
    """The teacher of a teacher, its teacher, and so on; without earlier generations of the same network."""
    if not spec.teachers or method_class(spec.method).needs.own_architecture:
        return ""
    return f" ← {' + '.join(teacher.student.name for teacher in spec.teachers)}{_ancestry(spec.teachers[0])}"


def _elsewhere(teacher: Spec, student: Spec) -> str:
    """What a teacher was trained on, where it is not the student's dataset."""
    return "" if teacher.dataset.name == student.dataset.name else f" on {teacher.dataset.name}"


def _lookup(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
