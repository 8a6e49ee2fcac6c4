"""What a table is: rows of overrides, with the figures a paper prints for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from kdrun.spec.signature import construct, unknown
from kdrun.tables.controls import CONTROLS
from kdrun.tables.derivation import Derivation
from kdrun.tables.figures import Figure, figure_problems

COLUMNS = ("seconds", "extra_params", "ensemble", "teacher_confidence", "train_top1", "selected", "shares")


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
        std: the deviation of the figure over the paper's runs.
        gain: over the baseline, only where the paper prints no accuracy.
        teacher_top1: of a teacher that has no row of its own (De-KD).
        ensemble: of its runs' mean probabilities.
        errors: on the test set, a count; replaces `top1` in tables of errors.
        errors_on: those on the classes of the row's `errors_on`.
        figures: of the table's evaluations, by the names of their columns, such as `translate top-1`.
    """

    top1: float | None = None
    std: float | None = None
    gain: float | None = None
    teacher_top1: float | None = None
    ensemble: float | None = None
    errors: float | None = None
    errors_on: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def figure(self) -> float | None:
        """What a table of the published measure shows."""
        return self.top1 if self.errors is None else self.errors


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
        label: what stands for the kind in the table; else the label of the method of that name, or the kind itself.
        note: a doubt about the published figure, or an assumption of ours.
        unavailable: why kdrun cannot run it; then there are no overrides.
        derived: how its figures are computed from other rows' runs, without training or overrides.
        errors_on: classes whose errors have a column of their own.
        against: further rows that it is compared with, by name, beside its baseline and its controls.
        departs: in what its run differs from the published one, so that the two figures do not compare in their level;
            empty where it does not. `read_definition` puts the table's own before that of the row.
    """

    name: str
    overrides: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()
    baseline: str | None = None
    published: Published = Published()
    label: str = ""
    note: str = ""
    unavailable: str = ""
    derived: Derivation | None = None
    errors_on: tuple[int, ...] = ()
    against: tuple[str, ...] = ()
    departs: str = ""

    def __post_init__(self) -> None:
        if self.derived is not None and (self.overrides or self.recipe or self.unavailable):
            raise ValueError("derived: is no training: overrides, recipe and unavailable have no place beside it")

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

    def without_published(self) -> Row:
        """The row without its published figures and the doubts about them."""
        return dataclasses.replace(self, published=Published(), note="", departs="")

    @property
    def owner(self) -> str:
        """The name of the row that a control belongs to; of other rows their own."""
        return self.name if self.control is None else self.name.removesuffix(f"/{self.control}")


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
        labels: of rows without a label of their own, by kind.
        controls: which controls each row with a soft-target term gets, see `kdrun.tables.controls`.
        include: other tables whose rows with controls this one collects.
        figures: drawn beside `table.png`, by name or with a `_target_` and options, see `kdrun.tables.figures`.
        evaluations: of each finished run, options of the config group `evaluation`.
        columns: shown beside the accuracies: seconds (of an epoch), extra_params (learned beside the student), ensemble
            (of the mean probabilities of a row's runs), teacher_confidence (their mean largest probability),
            train_top1 (of the last epoch, as logged in training), selected (of the epoch that is best on the
            validation images), shares (of each weighted term in the gradient, in the last epoch that has some).
        measure: what is shown of a run: `top1`, or `errors`, how many test images are wrong.
        notes: what a reader must know, a sentence each; of a table with published figures only beside these.
        departs: in what its runs differ from the published ones, of all rows; their figures are then shown as
            published for another setting.
        unavailable: why kdrun cannot run it.
    """

    name: str
    title: str
    data: str = ""
    rows: tuple[Row, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    runs: int | None = None
    num_classes: int | None = None
    overrides: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    columns: tuple[str, ...] = ()
    evaluations: tuple[str, ...] = ()
    measure: Literal["top1", "errors"] = "top1"
    notes: tuple[str, ...] = ()
    departs: str = ""
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
        for name, allowed in (
            ("controls", tuple(CONTROLS)),
            ("columns", COLUMNS),
        ):
            chosen = [option for option in getattr(self, name) if option not in allowed]
            problems += [f"{name}: {option}: {unknown(option, allowed, 'option')}" for option in chosen]
        problems += list(self._faulty_rows())
        if problems:
            raise ValueError("\n".join(problems))

    def _faulty_rows(self) -> Iterator[str]:
        """What is wrong with rows beside the others, and with figures of another measure than the table's."""
        rows = {row.name: row for row in self.rows}
        for row in self.rows:
            for name in row.derived.rows if row.derived else ():
                if name not in rows:
                    yield f"rows: {row.name}: derived: {name} is no row"
                elif rows[name].derived is not None or rows[name].unavailable:
                    yield f"rows: {row.name}: derived: {name} has no runs of its own"
            foreign = "errors" if self.measure == "top1" else "top1"
            if getattr(row.published, foreign) is not None:
                yield f"rows: {row.name}: published.{foreign}: this table's measure is {self.measure}"
            if any(text.startswith("evaluation=") for text in row.overrides):
                yield f"rows: {row.name}: overrides: evaluation: has no effect there; a table has evaluations: [...]"
            if row.published.errors_on is not None and not row.errors_on:
                yield f"rows: {row.name}: published.errors_on: needs errors_on, the classes"
            if row.departs and row.published == Published():
                yield f"rows: {row.name}: departs: the row has no published figure"


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
    if definition is not None:
        names = {row.name for row in definition.rows}
        problems += [
            f"rows: {row.name}: against: {other} is no other row"
            for row in definition.rows
            for other in row.against
            if other not in names - {row.name}
        ]
        kinds = {row.kind for row in definition.rows}
        problems += [f"labels: {kind}: no row is of this kind" for kind in definition.labels if kind not in kinds]
        if definition.departs and not definition.has_published:
            problems.append("departs: no row has a published figure")
        if not definition.include:  # it gets its rows later
            problems += figure_problems(definition)
    if problems or definition is None:
        raise TableError(problems)
    return dataclasses.replace(definition, rows=tuple(_completed(row, definition) for row in definition.rows))


def _completed(row: Row, table: Definition) -> Row:
    """The row with its kind's label, and with what the whole table departs in where a figure is published for it."""
    common = "" if row.published == Published() else table.departs
    departs = "; ".join(text for text in (common, row.departs) if text)
    return dataclasses.replace(row, label=row.label or table.labels.get(row.kind, ""), departs=departs)


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
    names = with_baselines(rows, {row.name for row in chosen})
    return [row for row in rows if row.name in names]


def with_baselines(rows: Sequence[Row], names: set[str]) -> set[str]:
    """The names with those of the rows' baselines, and of these rows' own."""
    baselines = {row.baseline for row in rows if row.name in names and row.baseline is not None}
    return names if baselines <= names else with_baselines(rows, names | baselines)
