"""Figures of a table, drawn beside `table.png`: one protocol for kdrun's own and for those of a paper or a user.

An entry of a definition's `figures` is a name of `NAMED`, or a mapping with a `_target_` and options; the class is
imported when the definition is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.experiment.derived import Derived
from kdrun.spec.components import target_of
from kdrun.spec.signature import construct, unknown

if TYPE_CHECKING:
    from kdrun.tables.compare import Line
    from kdrun.tables.definition import Definition
    from kdrun.tables.entry import Entry

NAMED: Mapping[str, str] = {
    "curves": "kdrun.tables.render.curves.CurvesFigure",
    "teacher_accuracy": "kdrun.tables.render.curves.TeacherAccuracyFigure",
    "heatmap": "kdrun.tables.render.heatmap.HeatmapFigure",
    "evaluations": "kdrun.tables.render.evaluations_figure.EvaluationsFigure",
}
"""The figures that need no `_target_`, at their default options."""


@dataclass(frozen=True)
class Rendering:
    """What a figure is drawn from.

    Attributes:
        directory: of the table's files.
        definition: the table.
        lines: its rows with the figures of their finished runs.
        kept: the record of a derived figure, or None where it was not computed.
        published: whether the paper's figures are shown.
        title: of the table, with the data.
    """

    directory: Path
    definition: Definition
    lines: Sequence[Line]
    kept: Callable[[Derived], Mapping[str, Any] | None]
    published: bool
    title: str


@dataclass(frozen=True)
class Figure(ABC):
    """A figure of a table. The fields of a subclass, a frozen dataclass, are its options.

    >>> class BestFigure(Figure):
    ...     files = ("best.txt",)
    ...
    ...     def draw(self, table):
    ...         lines = [line for line in table.lines if line.last is not None]
    ...         if lines:
    ...             best = max(lines, key=lambda line: line.last.mean)
    ...             (table.directory / "best.txt").write_text(best.entry.row.name)
    >>> BestFigure().name
    'best'

    In a table's YAML: `figures: [curves, {_target_: my_package.BestFigure}]`.
    """

    @property
    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """Names of the files that `draw` may write, the most important first; a class attribute in subclasses."""

    @abstractmethod
    def draw(self, table: Rendering) -> None:
        """Writes those of `files` that there is something to show in; older ones have been deleted."""

    def check(self, definition: Definition) -> Iterator[str]:
        """What the definition lacks for this figure, a problem each."""
        yield from ()

    def needs(self, entries: Sequence[Entry]) -> Sequence[Derived]:
        """What must be computed of finished runs before this can be drawn.

        Args:
            entries: the rows that are shown, in order.

        Raises:
            ValueError: runs that the figure cannot show, a line for each problem.
        """
        return ()

    @property
    def name(self) -> str:
        """In messages: that of its first file, without the suffix."""
        return Path(self.files[0]).stem

    def write(self, table: Rendering) -> None:
        """Replaces the figure's files; those with nothing to show are deleted."""
        for name in self.files:
            (table.directory / name).unlink(missing_ok=True)
        self.draw(table)

    @classmethod
    def from_values(cls, value: Any, path: str, problems: list[str]) -> Figure | None:
        """Reads an entry of `figures`; every fault becomes a line in `problems`."""
        if isinstance(value, str):
            if value not in NAMED:
                hint = "; others: a mapping with a _target_"
                problems.append(f"{path}={value}: {unknown(value, NAMED, 'figure')}{hint}")
                return None
            value = {"_target_": NAMED[value]}
        found = target_of(value, path, problems, kind=cls)
        if found is None:
            return None
        target, options = found
        figure: Figure | None = construct(target, options, path, problems)
        return figure


def figure_problems(definition: Definition) -> list[str]:
    """What a definition lacks for its figures, and figures that would write one file."""
    problems = [f"figures: {figure.name}: {text}" for figure in definition.figures for text in figure.check(definition)]
    files = [name for figure in definition.figures for name in figure.files]
    return problems + [f"figures: {name} is written twice" for name in dict.fromkeys(files) if files.count(name) > 1]
