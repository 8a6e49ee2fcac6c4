"""What a table is: rows of overrides, with the figures a paper prints for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from kdrun.experiment.components import method_class
from kdrun.experiment.signature import construct, unknown
from kdrun.experiment.spec import Spec
from kdrun.tables.controls import CONTROLS

FIGURES = ("curves", "teacher_accuracy", "soft_targets")
COLUMNS = ("seconds", "extra_params", "ensemble", "teacher_confidence")


class TableError(ValueError):
    """A definition that is not one: a line for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Published:
    """What a paper prints for a row. Accuracies are top-1 in percent.

    Attributes:
        top1: the accuracy.
        std: its deviation over the paper's runs.
        gain: over the baseline, only where the paper prints no accuracy.
        teacher_top1: of a teacher that has no row of its own (De-KD).
        ensemble: of its runs' mean probabilities.
    """

    top1: float | None = None
    std: float | None = None
    gain: float | None = None
    teacher_top1: float | None = None
    ensemble: float | None = None


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: `student/kind`, or `student/kind/teacher`, or `student/kind/teacher@stop_epoch`. Kinds are methods, or
            what a paper calls its use of one (re_kd, de_kd). A control adds its own name: `student/kind/teacher/no_kl`.
        overrides: as typed in a shell.
        recipe: further overrides that are for the table's dataset alone: what the published run has other than the
            dataset's recipe. Left out with another dataset.
        baseline: name of the row it is compared with; None for baselines.
        published: what the paper prints.
        note: a doubt about the published figure, or an assumption of ours.
        unavailable: why kdrun cannot run it; then there are no overrides.
    """

    name: str
    overrides: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()
    baseline: str | None = None
    published: Published = Published()
    note: str = ""
    unavailable: str = ""

    @property
    def student(self) -> str:
        return self.name.split("/")[0]

    @property
    def kind(self) -> str:
        return self.name.split("/")[1]

    @property
    def teacher(self) -> str:
        """The teacher with its stop epoch, for instance `resnet18@0.25`; empty where the name has none."""
        parts = self.name.split("/")
        return parts[2] if len(parts) > 2 and parts[2] != self.control else ""

    @property
    def control(self) -> str | None:
        """The control's name; None for rows that are none."""
        last = self.name.rpartition("/")[2]
        return last if last in CONTROLS and last != self.kind else None


@dataclass(frozen=True)
class Definition:
    """A whole table.

    Attributes:
        name: of the file.
        title: one line, without the data.
        data: the published runs' dataset, as a reader knows it (`CIFAR-100`).
        source: paper and table; empty where there is none.
        runs: the number of runs behind a published figure; None where the paper does not say.
        num_classes: K of the published runs: at another K, losses that are divided by K keep their weights.
        overrides: of every row.
        rows: in the order they are shown.
        controls: which controls each row with a soft-target term gets, see `kdrun.tables.controls`.
        include: other tables whose rows with controls this one collects.
        figures: drawn beside `table.png`: curves, teacher_accuracy, soft_targets.
        columns: shown beside the accuracies: seconds (of an epoch), extra_params (learned beside the student), ensemble
            (top-1 of the mean probabilities of a row's runs), teacher_confidence (their mean largest probability).
        notes: what a reader must know, a sentence each; of a table with published figures only beside these.
        unavailable: why kdrun cannot run it.
    """

    name: str
    title: str
    data: str = ""
    rows: tuple[Row, ...] = ()
    source: str = ""
    runs: int | None = None
    num_classes: int | None = None
    overrides: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unavailable: str = ""

    @property
    def has_published(self) -> bool:
        """Whether a paper prints a figure for any row."""
        return any(row.published != Published() for row in self.rows)

    @property
    def full_title(self) -> str:
        """The title with the published dataset, where there is one."""
        return f"{self.title} on {self.data}" if self.data else self.title

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        problems = [f"rows: {name} is there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        problems += [f"rows: {name!r} must be student/kind[/teacher]" for name in names if "/" not in name]
        missing = {row.baseline for row in self.rows if row.baseline is not None} - set(names)
        problems += [f"rows: baseline {name} is no row" for name in sorted(missing)]
        for field, allowed in (("controls", tuple(CONTROLS)), ("figures", FIGURES), ("columns", COLUMNS)):
            chosen = [name for name in getattr(self, field) if name not in allowed]
            problems += [f"{field}: {name}: {unknown(name, allowed, 'option')}" for name in chosen]
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True)
class Entry:
    """A row that is ready to be run or rendered.

    Attributes:
        row: what it is.
        specs: one per seed; empty where kdrun cannot run it.
        same_as: names of rows that are the same runs, and so are not shown.
    """

    row: Row
    specs: tuple[Spec, ...] = ()
    same_as: tuple[str, ...] = ()

    @property
    def student(self) -> str:
        """The student: as its spec says, else as the row's name does."""
        return self.specs[0].student.name if self.specs else self.row.student

    @property
    def teacher(self) -> str:
        """The teacher's network; empty where there is none, or where the method takes the student's own."""
        if self.specs:
            own = method_class(self.specs[0].method).needs.own_architecture
            return "" if own else "".join(teacher.student.name for teacher in self.specs[0].teachers[:1])
        return self.row.teacher.partition("@")[0]

    @property
    def stop(self) -> str:
        """When the teacher was stopped, for instance `epoch 1 of 200`; empty where it was not."""
        if self.specs:
            stopped = [teacher for teacher in self.specs[0].teachers if teacher.stop_epoch is not None]
            return "".join(f"epoch {teacher.stop_epoch} of {teacher.recipe.epochs}" for teacher in stopped[:1])
        stop = self.row.teacher.partition("@")[2]
        return f"{float(stop):.3g} of the epochs" if "." in stop else f"epoch {stop}" if stop else ""


def read_definition(name: str, values: Any) -> Definition:
    """A definition from plain values.

    Raises:
        TableError: with a line for every problem.
    """
    problems: list[str] = []
    if isinstance(values, Mapping) and "name" in values:
        problems.append("name: is that of the file")
    fields = {**values, "name": name} if isinstance(values, Mapping) else values
    definition: Definition | None = construct(Definition, fields, name, problems)
    if problems or definition is None:
        raise TableError(problems)
    return definition


def without_repetition(entries: Sequence[Entry]) -> list[Entry]:
    """Each set of runs once, under the name of the first row that asks for it."""
    first: dict[tuple[str, ...], int] = {}
    kept: list[Entry] = []
    for entry in entries:
        key = tuple(spec.run_id for spec in entry.specs) or (entry.row.name,)
        if key in first:
            place = first[key]
            kept[place] = dataclasses.replace(kept[place], same_as=(*kept[place].same_as, entry.row.name))
        else:
            first[key] = len(kept)
            kept.append(entry)
    return kept


def select(rows: Sequence[Row], patterns: Sequence[str]) -> list[Row]:
    """The rows whose names match, and the baselines they are compared with; without a pattern all.

    Args:
        rows: of a table, controls included.
        patterns: shell patterns, `*` also over `/`; any of them selects, and one that begins with `!` leaves out.

    Raises:
        TableError: a pattern matches no row, or nothing is left.
    """
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]

    def matches(name: str, choices: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in choices)

    idle = [pattern for pattern in patterns if not any(matches(row.name, [pattern.lstrip("!")]) for row in rows)]
    chosen = [row for row in rows if matches(row.name, wanted) and not matches(row.name, unwanted)]
    if idle or not chosen:
        known = ", ".join(row.name for row in rows if row.control is None)
        raise TableError([f"--rows {','.join(idle or patterns)}: no such row. Rows (and their controls): {known}"])
    names = {row.name for row in chosen} | {row.baseline for row in chosen}
    return [row for row in rows if row.name in names]
