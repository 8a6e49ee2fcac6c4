"""The evaluations of a table's runs as a figure: how the rows differ on each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

FEW = 3
"""At most this many figures have a line of panels each."""

REPEATED = ("ECE of ",)
"""First words of the figures that are drawn only beside a published one."""

Place = tuple[str, str]
"""Evaluation and figure."""


class EvaluationsFigure(Figure):
    """The figures of the table's evaluations, by row."""

    files = (FILE,)

    def check(self, definition: Definition) -> Iterator[str]:
        if not definition.evaluations:
            yield "needs evaluations, the table has none"

    def draw(self, table: Rendering) -> None:
        _draw(table)


def _draw(table: Rendering) -> None:
    """A panel for each figure of each evaluation: every row with a figure as a dot, with a bar of one deviation.

    The panels of one figure stand beside one another.
    """
    names, published = table.definition.evaluations, table.published
    lines = [line for line in table.lines if any(_values(line, names, published=published))]
    bands = _bands(_panels(lines, names, published=published))
    if not bands:
        return
    places = places_of(lines)
    panels = [
        [Panel(_title(*each), _marks(lines, places, each, published=published)) for each in band] for band in bands
    ]
    handles = list(_legend(lines, names, published=published))
    draw_panels(table.directory / FILE, panels, Names.of_lines(lines, places), handles, table.title)


def _values(line: Line, names: Sequence[str], *, published: bool) -> Iterator[str]:
    """The columns of evaluations with a value in this row."""
    known = [*line.figures, *(line.entry.row.published.figures if published else ())]
    return (column for column in known if any(column.startswith(f"{name} ") for name in names))


def _panels(lines: Sequence[Line], names: Sequence[str], *, published: bool) -> Mapping[str, Sequence[Place]]:
    """Those to draw, by figure, in the order in which the evaluations have them."""
    ours = {column for line in lines for column in line.figures}
    printed = {column for line in lines for column in line.entry.row.published.figures} if published else set()
    known = dict.fromkeys(column for line in lines for column in _values(line, names, published=published))
    panels: dict[str, list[Place]] = {}
    for name in names:
        for column in known:
            what = column.removeprefix(f"{name} ")
            shown = column in printed or (column in ours and not what.startswith(REPEATED))
            if what != column and shown:
                panels.setdefault(what, []).append((name, what))
    return panels


def _bands(panels: Mapping[str, Sequence[Place]]) -> list[list[Place]]:
    """Panels that stand beside one another: those of a figure together, and others where there is room.

    A few figures have a line each, with an evaluation below the other.
    """
    most = max(map(len, panels.values()), default=0)
    widest = WIDEST if most > WIDEST or len(panels) > FEW else most
    bands: list[list[Place]] = []
    for members in panels.values():
        for start in range(0, len(members), widest):
            part = members[start : start + widest]
            with_room = next((band for band in bands if len(band) + len(part) <= widest), None)
            if with_room is None:
                bands.append(list(part))
            else:
                with_room.extend(part)
    return bands


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
