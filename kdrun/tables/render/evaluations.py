"""The evaluations of a table's runs as a figure: how the rows differ on each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.analysis.evaluations import SHARES
from kdrun.analysis.plots import figure, set_heading, style
from kdrun.tables import Definition
from kdrun.tables.compare import Line
from kdrun.tables.figures import Figure, Rendering
from kdrun.tables.render.dots import CONTROL, GAP, OURS, PUBLISHED, handle, name_of, name_rows, places_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

WIDEST = 4
"""Panels beside one another, at most."""

FEW = 3
"""At most this many figures have a line of panels each."""

PANEL, NAME_LETTER = 2.5, 0.075
"""Inches: the width of a panel, and of a letter of a row's name."""

ROW_INCHES, AROUND_PANEL, AROUND_FIGURE = 0.24, 0.75, 1.0
"""Heights."""

REPEATED = ("ECE of ",)
"""First words of the figures that are drawn only beside a published one."""

Panel = tuple[str, str]
"""Evaluation and figure."""


class EvaluationsFigure(Figure):
    """The figures of the table's evaluations, by row."""

    files = ("evaluations.png",)

    def check(self, definition: Definition) -> Iterator[str]:
        if not definition.evaluations:
            yield "needs evaluations, the table has none"

    def draw(self, table: Rendering) -> None:
        path, names = table.directory / "evaluations.png", table.definition.evaluations
        evaluations(path, table.lines, names, published=table.published, title=table.title)


def evaluations(path: Path, lines: Sequence[Line], names: Sequence[str], *, published: bool, title: str) -> None:
    """A panel for each figure of each evaluation: every row as a dot, with a bar of one deviation.

    Each panel has an axis of its own: the rows may differ by tenths on the test images and by tens on others. Those of
    one figure stand beside one another.

    Args:
        path: of the PNG; a figure with nothing to show is deleted.
        lines: the rows; those without figures, ours or published, are not drawn.
        names: of the evaluations, in order.
        published: whether the paper's figures are shown.
        title: of the picture.
    """
    lines = [line for line in lines if any(_values(line, names, published=published))]
    bands = _bands(_panels(lines, names, published=published))
    if not bands:
        return
    places = places_of(lines)
    columns = max(map(len, bands))
    named = NAME_LETTER * max(len(name_of(line)) for line in lines)
    height = len(bands) * (AROUND_PANEL + ROW_INCHES * (max(places) + 1 + GAP))
    with figure(path, named + PANEL * columns + 0.3, AROUND_FIGURE + height) as drawn:
        grid = drawn.subplots(len(bands), columns, squeeze=False)
        for band, row in zip(bands, grid.tolist(), strict=True):
            for axes, panel in zip(row, band, strict=False):
                _draw(axes, lines, places, panel, published=published)
                axes.tick_params(labelleft=axes is row[0])
            for axes in row[len(band) :]:
                axes.set_axis_off()
        set_heading(drawn, title)
        drawn.legend(
            handles=list(_legend(lines, names, published=published)),
            loc="outside lower center",
            ncols=3,
            frameon=False,
            fontsize="small",
        )


def _values(line: Line, names: Sequence[str], *, published: bool) -> Iterator[str]:
    """The columns of evaluations with a value in this row."""
    known = [*line.figures, *(line.entry.row.published.figures if published else ())]
    return (column for column in known if any(column.startswith(f"{name} ") for name in names))


def _panels(lines: Sequence[Line], names: Sequence[str], *, published: bool) -> Mapping[str, Sequence[Panel]]:
    """Those to draw, by figure, in the order in which the evaluations have them."""
    ours = {column for line in lines for column in line.figures}
    printed = {column for line in lines for column in line.entry.row.published.figures} if published else set()
    known = dict.fromkeys(column for line in lines for column in _values(line, names, published=published))
    panels: dict[str, list[Panel]] = {}
    for name in names:
        for column in known:
            what = column.removeprefix(f"{name} ")
            shown = column in printed or (column in ours and not what.startswith(REPEATED))
            if what != column and shown:
                panels.setdefault(what, []).append((name, what))
    return panels


def _bands(panels: Mapping[str, Sequence[Panel]]) -> list[list[Panel]]:
    """Panels that stand beside one another: those of a figure together, and others where there is room.

    A few figures have a line each, with an evaluation below the other.
    """
    most = max(map(len, panels.values()), default=0)
    widest = WIDEST if most > WIDEST or len(panels) > FEW else most
    bands: list[list[Panel]] = []
    for members in panels.values():
        for start in range(0, len(members), widest):
            part = members[start : start + widest]
            with_room = next((band for band in bands if len(band) + len(part) <= widest), None)
            if with_room is None:
                bands.append(list(part))
            else:
                with_room.extend(part)
    return bands


def _draw(axes: Axes, lines: Sequence[Line], places: Sequence[float], panel: Panel, *, published: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    style(axes)
    column = " ".join(panel)
    for line, place in zip(lines, places, strict=True):
        printed = line.entry.row.published.figures.get(column) if published else None
        ours = line.figures.get(column)
        if printed is not None:  # a little below ours, so that both are seen where they agree
            axes.plot(printed, place + 0.2, "D", markersize=4.2, color=PUBLISHED, markerfacecolor="white", zorder=3)
        if ours is not None:
            colour = CONTROL if line.entry.row.control else OURS
            axes.errorbar(
                ours.mean, place, xerr=ours.deviation, fmt="o", color=colour, markersize=4.7, capsize=2, zorder=4
            )
    name_rows(axes, lines, places)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize="small")
    axes.set_title(f"{panel[0]}: {_with_unit(panel[1])}", fontsize="small")


def _with_unit(figure: str) -> str:
    """A figure's name with its unit: percent, but for perplexities and for shares in [0, 1]."""
    return figure if figure == "perplexity" or figure.startswith(SHARES) else f"{figure} (%)"


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
        yield handle("D", PUBLISHED, f"published{other}", face="white")
