"""Panels beside one another in which every row of a table has a place, its figures as dots with bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.analysis.plots import figure, grid, legend_below, set_heading, style
from kdrun.escaping import legend_label
from kdrun.tables.compare import Line
from kdrun.tables.labels import method_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

WIDEST = 4
"""Panels beside one another, at most."""

PANEL, NAME_LETTER = 2.5, 0.075
"""Inches: the width of a panel, and of a letter of a row's name."""

ROW_INCHES, AROUND_PANEL, AROUND_FIGURE = 0.24, 0.75, 1.0
"""Heights."""

GAP = 0.7
"""Between two students, in rows."""

OURS, CONTROL, PUBLISHED, OTHER = "C0", "0.55", "C1", "C2"
GREY_NAME = "0.4"


@dataclass(frozen=True)
class Mark:
    """A figure at its row's place, with half the length of its bar; None for one without."""

    value: float
    error: float | None
    place: float
    colour: str
    marker: str = "o"
    hollow: bool = False

    def draw(self, axes: Axes) -> None:
        axes.errorbar(
            *(self.value, self.place, None, self.error),
            fmt=self.marker,
            color=self.colour,
            markerfacecolor="white" if self.hollow else self.colour,
            markersize=4.7,
            capsize=2,
            zorder=4,
        )


@dataclass(frozen=True)
class Panel:
    """The marks of one figure, under its title."""

    title: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Names:
    """What the rows are called, and where they stand from the top; the names of some are grey."""

    texts: Sequence[str]
    places: Sequence[float]
    grey: Sequence[bool]

    @classmethod
    def of_lines(cls, lines: Sequence[Line], places: Sequence[float]) -> Names:
        """Student and method; controls grey."""
        texts = [f"{line.student}  {method_label(line.entry)}" for line in lines]
        return cls(texts, places, [line.entry.row.control is not None for line in lines])

    def write(self, axes: Axes) -> None:
        axes.set_yticks(self.places, self.texts)
        axes.set_ylim(max(self.places) + 0.6, -0.6)
        axes.tick_params(axis="y", labelsize="small", pad=6)
        for label, grey in zip(axes.get_yticklabels(), self.grey, strict=True):
            label.set_color(GREY_NAME if grey else "0")


def draw_panels(
    path: Path,
    panels: Sequence[Panel],
    columns: int,
    names: Names,
    handles: Sequence[Line2D],
    title: str,
    *,
    zero: bool = False,
) -> None:
    """Writes panels in lines of `columns` as PNG, each with an axis of its own: some figures differ by tenths.

    Args:
        path: of the PNG.
        panels: at least one.
        columns: panels beside one another.
        names: of the rows.
        handles: of the legend.
        title: of the picture.
        zero: whether the panels have a line at zero.
    """
    width = NAME_LETTER * max(map(len, names.texts)) + PANEL * columns + 0.3
    height = math.ceil(len(panels) / columns) * (AROUND_PANEL + ROW_INCHES * (max(names.places) + 1 + GAP))
    with figure(path, width, AROUND_FIGURE + height) as drawn:
        for i, (axes, panel) in enumerate(zip(grid(drawn, len(panels), columns), panels, strict=True)):
            _draw(axes, panel, names, zero=zero)
            axes.tick_params(labelleft=i % columns == 0)
        set_heading(drawn, title)
        legend_below(drawn, handles)


def _draw(axes: Axes, panel: Panel, names: Names, *, zero: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    style(axes)
    if zero:
        draw_zero(axes)
    for mark in panel.marks:
        mark.draw(axes)
    names.write(axes)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    axes.tick_params(axis="x", labelsize="small")
    axes.tick_params(axis="y", length=0)
    axes.set_title(panel.title, fontsize="small")


def draw_zero(axes: Axes) -> None:
    """A line where a difference is zero."""
    axes.axvline(0, color="0.3", linewidth=1, zorder=1)


def handle(marker: str, colour: str, label: str, *, hollow: bool = False) -> Line2D:
    """An entry of a legend."""
    from matplotlib.lines import Line2D

    face = "white" if hollow else colour
    return Line2D([], [], marker=marker, linestyle="", color=colour, markerfacecolor=face, label=legend_label(label))


def places_of(lines: list[Line]) -> list[float]:
    """Sorts the lines by student, in place; returns the place of each, with a gap between two students."""
    students = list(dict.fromkeys(line.student for line in lines))
    lines.sort(key=lambda line: students.index(line.student))
    return [i + GAP * students.index(line.student) for i, line in enumerate(lines)]


def colour_of(line: Line) -> str:
    """The colour of our figures: controls are grey."""
    return CONTROL if line.entry.row.control else OURS
