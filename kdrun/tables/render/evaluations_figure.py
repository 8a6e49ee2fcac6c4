"""The evaluations of a table's runs as a figure: how the rows differ on each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kdrun.analysis.tables import SHARES
from kdrun.tables import Definition
from kdrun.tables.compare import Line
from kdrun.tables.figures import Figure, Rendering
from kdrun.tables.render.panels import (
    CONTROL,
    OURS,
    PUBLISHED,
    WIDEST,
    Mark,
    Names,
    Panel,
    colour_of,
    draw_panels,
    handle,
    places_of,
)

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

FILE = "evaluations.png"

REPEATED = ("ECE of ",)
"""First words of the figures that are drawn only beside a published one."""

Place = tuple[str, str]
"""Evaluation and figure."""


class EvaluationsFigure(Figure):
    """A panel for each figure of each evaluation, those of one figure beside one another: every row with a figure as a
    dot, with a bar of one deviation.
    """

    files = (FILE,)

    def check(self, definition: Definition) -> Iterator[str]:
        if not definition.evaluations:
            yield "needs evaluations, the table has none"

    def draw(self, table: Rendering) -> None:
        names, published = table.definition.evaluations, table.published
        lines = [line for line in table.lines if any(_values(line, names, published=published))]
        found = _panels(lines, names, published=published)
        if not found:
            return
        places = places_of(lines)
        panels = [Panel(_title(*each), _marks(lines, places, each, published=published)) for each in found]
        handles = list(_legend(lines, names, published=published))
        columns = min(WIDEST, len({on for on, _ in found}))
        names_of_rows = Names.of_lines(lines, places)
        draw_panels(table.directory / FILE, panels, columns, names_of_rows, handles, table.title)


def _values(line: Line, names: Sequence[str], *, published: bool) -> Iterator[str]:
    """The columns of evaluations with a value in this row."""
    known = [*line.figures, *(line.entry.row.published.figures if published else ())]
    return (column for column in known if any(column.startswith(f"{name} ") for name in names))


def _panels(lines: Sequence[Line], names: Sequence[str], *, published: bool) -> list[Place]:
    """Those to draw, figure by figure, each in the order of the evaluations."""
    ours = {column for line in lines for column in line.figures}
    printed = {column for line in lines for column in line.published.figures} if published else set()
    known = dict.fromkeys(column for line in lines for column in _values(line, names, published=published))
    shown = [
        (name, column.removeprefix(f"{name} "))
        for name in names
        for column in known
        if column.startswith(f"{name} ")
        if column in printed or (column in ours and not column.removeprefix(f"{name} ").startswith(REPEATED))
    ]
    figures = list(dict.fromkeys(figure for _, figure in shown))
    return sorted(shown, key=lambda place: figures.index(place[1]))


def _marks(lines: Sequence[Line], places: Sequence[float], place_of: Place, *, published: bool) -> list[Mark]:
    """Ours, and the published ones a little below, so that both are visible where they agree."""
    marks, column = [], " ".join(place_of)
    for line, place in zip(lines, places, strict=True):
        printed = line.published.figures.get(column) if published else None
        ours = line.figures.get(column)
        if printed is not None:
            marks.append(Mark(printed, None, place + 0.2, PUBLISHED, "D", hollow=True))
        if ours is not None:
            marks.append(Mark(ours.mean, ours.deviation, place, colour_of(line)))
    return marks


def _title(evaluation: str, figure: str) -> str:
    """With the unit: percent, but for perplexities and for shares in [0, 1]."""
    plain = figure == "perplexity" or figure.startswith(SHARES)
    return f"{evaluation}: {figure}" if plain else f"{evaluation}: {figure} (%)"


def _legend(lines: Sequence[Line], names: Sequence[str], *, published: bool) -> Iterator[Line2D]:
    ours = [(line, line.figures[column]) for line in lines for column in _values(line, names, published=False)]
    spread = " ± deviation over seeds" if any(found.deviation is not None for _, found in ours) else ""
    if any(not line.entry.row.control for line, _ in ours):
        yield handle("o", OURS, f"ours{spread}")
    if any(line.entry.row.control for line, _ in ours):
        yield handle("o", CONTROL, "control")
    printed = [line.entry.row for line in lines if published and line.entry.row.published.figures]
    if printed:
        other = " for another setting" if any(row.departs for row in printed) else ""
        yield handle("D", PUBLISHED, f"published{other}", hollow=True)
