"""What a table is: rows of overrides, with the figures a paper prints for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from kdrun.experiment.derived.paths import check_epochs
from kdrun.spec.components import all_options
from kdrun.spec.signature import construct, unknown
from kdrun.spec.spec import Component, Spec
from kdrun.tables.controls import CONTROLS
from kdrun.tables.ingredients import Ingredients, check_ingredients, ingredients

FIGURES = ("curves", "teacher_accuracy", "soft_targets", "heatmap", "cover", "evaluations", "buckets", "paths")
OF_EVALUATIONS = ("evaluations", "buckets")
COLUMNS = ("seconds", "extra_params", "ensemble", "teacher_confidence", "train_top1", "selected", "shares")
GRID_PARTS = ("student", "method", "recipe", "dataset")
"""What an axis of a heat map can be of: the student by its name, or an option such as `method.temperature`."""


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
        errors: on the test set, a count; in tables of errors, in the place of `top1`.
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
        note: a doubt about the published figure, or an assumption of ours.
        unavailable: why kdrun cannot run it; then there are no overrides.
        derived: computed from other runs, without training or overrides, see `kdrun.tables.ingredients`.
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
    note: str = ""
    unavailable: str = ""
    derived: Mapping[str, Any] | None = None
    errors_on: tuple[int, ...] = ()
    against: tuple[str, ...] = ()
    departs: str = ""

    def __post_init__(self) -> None:
        if self.derived is not None:
            check_ingredients(self.derived)
            if self.overrides or self.recipe or self.unavailable:
                raise ValueError("derived: is no training: overrides, recipe and unavailable have no place beside it")

    @property
    def ingredients(self) -> Ingredients | None:
        """What a derived row is made of; None for rows with runs of their own."""
        return None if self.derived is None else ingredients(self.derived)

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
class Grid:
    """Where the rows stand in a heat map: by `student`, or by an option such as `method.temperature`."""

    rows: str = "student"
    columns: str = "method.temperature"

    def __post_init__(self) -> None:
        faulty = [
            f"{name}={value!r}: must be student, or an option of {', '.join(GRID_PARTS)} such as method.temperature"
            for name, value in (("rows", self.rows), ("columns", self.columns))
            if value != "student" and (value.partition(".")[0] not in GRID_PARTS or not value.partition(".")[2])
        ]
        if faulty:
            raise ValueError("\n".join(faulty))

    def place(self, spec: Spec) -> tuple[Any, Any]:
        """The values of a run; None for an option that its network or method does not have."""
        return self._value(self.rows, spec), self._value(self.columns, spec)

    @staticmethod
    def _value(axis: str, spec: Spec) -> Any:
        part, _, option = axis.partition(".")
        if not option:
            return spec.student.name
        owner = getattr(spec, part)
        return all_options(owner).get(option) if isinstance(owner, Component) else getattr(owner, option, None)


@dataclass(frozen=True)
class Waypoints:
    """Whose paths are drawn, and where on them networks are looked at.

    Attributes:
        rows: by name, with runs of their own; none is all such rows.
        epochs: after which a run of the first seed is looked at, beside its end; 0 is the network as initialised.
    """

    rows: tuple[str, ...] = ()
    epochs: tuple[int, ...] = (0, 1, 2, 4, 8, 16)

    def __post_init__(self) -> None:
        check_epochs(self.epochs)


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
        figures: drawn beside `table.png`: curves, teacher_accuracy, soft_targets, heatmap, cover (of specialists),
            evaluations (their figures by row), buckets (accuracy in the evaluations by the value of something, such as
            attractors), paths (`ends` and `paths`: where networks end, and on which way; see
            `kdrun.experiment.derived.Paths`).
        evaluations: of each finished run, options of the config group `evaluation`.
        columns: shown beside the accuracies: seconds (of an epoch), extra_params (learned beside the student), ensemble
            (of the mean probabilities of a row's runs), teacher_confidence (their mean largest probability),
            train_top1 (of the last epoch, as logged in training), selected (of the epoch that is best on the
            validation images), shares (of each weighted term in the gradient, in the last epoch that has some).
        measure: what is shown of a run: `top1`, or `errors`, how many test images are wrong.
        grid: the axes of the heat map.
        paths: whose are drawn, with which checkpoints.
        notes: what a reader must know, a sentence each; of a table with published figures only beside these.
        departs: in what its runs differ from the published ones, of all rows; their figures are then shown as
            published for another setting.
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
    evaluations: tuple[str, ...] = ()
    measure: Literal["top1", "errors"] = "top1"
    grid: Grid = Grid()
    paths: Waypoints = Waypoints()
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
            ("figures", FIGURES),
            ("columns", COLUMNS),
        ):
            chosen = [option for option in getattr(self, name) if option not in allowed]
            problems += [f"{name}: {option}: {unknown(option, allowed, 'option')}" for option in chosen]
        problems += list(self._faulty_rows())
        if self.grid != Grid() and "heatmap" not in self.figures:
            problems.append("grid: is of a heat map: figures has none")
        if not self.evaluations:
            problems += [
                f"figures: {name}: is of evaluations: there are none" for name in OF_EVALUATIONS if name in self.figures
            ]
        if self.paths != Waypoints() and "paths" not in self.figures:
            problems.append("paths: is of a figure: figures has no paths")
        if problems:
            raise ValueError("\n".join(problems))

    def _faulty_rows(self) -> Iterator[str]:
        """What is wrong with rows beside the others, and with figures of another measure than the table's."""
        rows = {row.name: row for row in self.rows}
        for name in self.paths.rows if rows else ():  # an including table gets its rows later
            if name not in rows:
                yield f"paths: rows: {name} is no row"
            elif rows[name].derived is not None or rows[name].unavailable:
                yield f"paths: rows: {name} has no runs of its own"
        for row in self.rows:
            for name in row.ingredients.rows if row.ingredients else ():
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
        if definition.departs and not definition.has_published:
            problems.append("departs: no row has a published figure")
    if problems or definition is None:
        raise TableError(problems)
    return dataclasses.replace(definition, rows=tuple(_departing(row, definition.departs) for row in definition.rows))


def _departing(row: Row, common: str) -> Row:
    """The row with what the whole table departs in, where a figure is published for it."""
    if row.published == Published():
        return row
    return dataclasses.replace(row, departs="; ".join(text for text in (common, row.departs) if text))


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
