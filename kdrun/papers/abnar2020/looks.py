"""Colours, markers and lines of rows in one picture: colour by student, marker and line by teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdrun.analysis.plots import COLOURS
from kdrun.escaping import legend_label
from kdrun.tables.compare import Line
from kdrun.tables.labels import method_label

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Look:
    """Of a row: matplotlib's colour, marker and line, and what the legend calls it."""

    colour: str
    marker: str
    line: str
    label: str

    @property
    def options(self) -> dict[str, Any]:
        """Of matplotlib's `errorbar`, but for the line."""
        return {"color": self.colour, "marker": self.marker, "markersize": 5, "linewidth": 1.2, "capsize": 2}

    def handle(self) -> Line2D:
        """Its entry of a legend."""
        from matplotlib.lines import Line2D

        options: dict[str, Any] = {"color": self.colour, "marker": self.marker, "linestyle": self.line}
        return Line2D([], [], **options, markersize=5, label=legend_label(self.label))


def looks(lines: Sequence[Line]) -> list[Look]:
    """The look of each row: the same student has one colour, the same teacher one marker and one line.

    Where rows would look alike, by their methods instead of their teachers.
    """
    taught = [line.entry.teacher for line in lines]
    if len({(line.student, teacher) for line, teacher in zip(lines, taught, strict=True)}) < len(lines):
        taught = [method_label(line.entry) for line in lines]
        labels = [f"{line.student}, {method}" for line, method in zip(lines, taught, strict=True)]
    else:
        labels = [
            f"{line.student} ← {teacher}" if teacher else line.student
            for line, teacher in zip(lines, taught, strict=True)
        ]
    students = dict.fromkeys(line.student for line in lines)
    colours = {student: COLOURS[i % len(COLOURS)] for i, student in enumerate(students)}
    styles = {by: (MARKERS[i % len(MARKERS)], LINES[i % len(LINES)]) for i, by in enumerate(dict.fromkeys(taught))}
    return [
        Look(colours[line.student], *styles[by], label) for line, by, label in zip(lines, taught, labels, strict=True)
    ]
