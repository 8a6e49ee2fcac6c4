"""A paper's table as a picture: every row as a dot, its top-1 (or its errors) and what it has over its baseline."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.analysis.plots import figure, legend_below, readable_range, set_heading, style
from kdrun.tables.compare import Line
from kdrun.tables.labels import has_published
from kdrun.tables.measure import Measure
from kdrun.tables.render.panels import (
    CONTROL,
    OURS,
    PUBLISHED,
    Mark,
    Names,
    colour_of,
    draw_zero,
    handle,
    places_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

HEIGHT, ROW_INCHES = 1.8, 0.28
TALL = 30
"""Rows beyond which the axes are labelled at the top, too."""

READABLE_ACCURACIES, READABLE_DIFFERENCES = 25.0, 20.0
"""Points that an axis may span so that half a point is visible; that of the differences is shorter."""

READABLE_ERRORS, READABLE_MORE = 3.0, 2.0
"""Times the median that an axis of errors, and one of their differences, may span."""

BASELINE, ROW, MINOR = range(3)


@dataclass(frozen=True)
class _Mark(Mark):
    """A figure with its bar; hollow where it is published for another setting.

    Attributes:
        weight: BASELINE is always inside the axis, MINOR (controls) gets what room is left.
        best: on test; None where it is not drawn.
    """

    weight: int = ROW
    best: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Of all that is drawn of it."""
        error, best = self.error or 0.0, self.value if self.best is None else self.best
        return min(self.value - error, best), max(self.value + error, best)


@dataclass(frozen=True)
class _Panel:
    """Marks on one pair of axes, and where these begin and end."""

    marks: Sequence[_Mark]
    low: float
    high: float

    @property
    def beyond(self) -> list[_Mark]:
        return [mark for mark in self.marks if not self.low <= mark.value <= self.high]


def dots(path: Path, lines: Sequence[Line], measure: Measure, *, published_runs: int | None, title: str) -> None:
    """A line for each row that has a number, by student: its figure on the left, its Δ on the right; controls grey.

    Ours with bars of one deviation on the left and of one standard error on the right. What would stretch an axis
    beyond reading is an arrow at its edge, with the number.

    Args:
        path: of the PNG; deleted where there is nothing to draw.
        lines: the rows.
        measure: of the figures.
        published_runs: how many runs are behind a published figure; None where the paper does not say.
        title: of the picture.
    """
    lines = [line for line in lines if line.last is not None or has_published(line)]
    if not lines:
        path.unlink(missing_ok=True)
        return
    places = places_of(lines)
    panels = _panels(lines, places, measure)
    with figure(path, 9.5, HEIGHT + ROW_INCHES * (max(places) + 1)) as drawn:
        ratios = (3, 2)[: len(panels)]
        left, *right = drawn.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=ratios)[0]
        for axes, panel, bins in zip((left, *right), panels, (6, 5), strict=False):
            _draw(axes, panel, bins, tall=len(lines) > TALL)
        left.set_xlabel(measure.unit)
        for axes in right:
            draw_zero(axes)
            axes.set_xlabel(f"Δ to the baseline ({measure.difference_unit})")
        Names.of_lines(lines, places).write(left)
        set_heading(drawn, title)
        drawn.set_layout_engine("constrained", wspace=0.04)
        legend_below(drawn, list(_legend(panels, published_runs)))


def _panels(lines: Sequence[Line], places: Sequence[float], measure: Measure) -> list[_Panel]:
    """The figures, and their differences where there are any."""
    figures = list(_figures(lines, places))
    differences = list(_differences(lines, places))
    if measure.fewer:
        median = statistics.median(mark.value for mark in figures)
        spans, margin = (READABLE_ERRORS * median, READABLE_MORE * median), 0.02 * median
        start = min(mark.value for mark in figures)
    else:
        spans, start, margin = (READABLE_ACCURACIES, READABLE_DIFFERENCES), max(mark.value for mark in figures), 0.5
    left = _panel(figures, start, spans[0], margin)
    return [left, *([_panel(differences, 0.0, spans[1], margin, always=(0.0,))] * bool(differences))]


def _figures(lines: Sequence[Line], places: Sequence[float]) -> Iterator[_Mark]:
    for line, place in zip(lines, places, strict=True):
        printed = line.published
        if printed.figure is not None:
            yield _published(line, place, printed.figure, printed.std, line.last, departs=bool(line.entry.row.departs))
        if line.last is not None:
            best = None if line.best is None else line.best.mean
            yield _Mark(line.last.mean, line.last.deviation, place, colour_of(line), weight=_weight(line), best=best)


def _differences(lines: Sequence[Line], places: Sequence[float]) -> Iterator[_Mark]:
    for line, place in zip(lines, places, strict=True):
        found = line.difference_last
        if line.difference_published is not None:
            yield _published(line, place, line.difference_published, None, found, departs=line.difference_departs)
        if found is not None:
            yield _Mark(found.mean, found.standard_error, place, colour_of(line), weight=_weight(line))


def _published(line: Line, place: float, value: float, error: float | None, ours: object, *, departs: bool) -> _Mark:
    """A published figure: a little below ours where there is one, so that both are visible where they agree."""
    return _Mark(value, error, place + 0.16 * (ours is not None), PUBLISHED, "D", departs, _weight(line))


def _panel(marks: Sequence[_Mark], start: float, span: float, margin: float, always: Sequence[float] = ()) -> _Panel:
    """An axis for these marks: it shows the whole bars of every mark within.

    Args:
        marks: at least one.
        start: a value that is not far out; the best one is never of a failed run.
        span: how much the axis may always span.
        margin: left free at both ends, at least.
        always: what the axis must show.
    """
    values = {weight: [mark.value for mark in marks if mark.weight == weight] for weight in (ROW, MINOR)}
    shown = [*always, *(x for mark in marks if mark.weight == BASELINE for x in mark.ends)]
    low, high = readable_range(start, values[ROW], always=shown, minor=values[MINOR], span=span)
    while True:
        free = margin + 0.05 * (high - low)
        panel = _Panel(marks, low - free, high + free)
        ends = [end for mark in marks if mark not in panel.beyond for end in mark.ends]
        wider = min([low, *ends]), max([high, *ends])
        if wider == (low, high):
            return panel
        low, high = wider


def _draw(axes: Axes, panel: _Panel, bins: int, *, tall: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    style(axes)
    axes.set_xlim(panel.low, panel.high)
    axes.xaxis.set_major_locator(MaxNLocator(bins, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", top=tall, labeltop=tall)
    for mark in panel.marks:
        if mark.best is not None:
            axes.plot(mark.best, mark.place, "o", markersize=4, markerfacecolor="white", color=mark.colour, zorder=3)
        if mark in panel.beyond:
            _arrow(axes, mark, below=mark.value < panel.low)
        else:
            mark.draw(axes)


def _arrow(axes: Axes, mark: _Mark, *, below: bool) -> None:
    """An arrow at the edge of the axis for a figure beyond it, with the number."""
    edge = axes.get_xlim()[0 if below else 1]
    axes.plot(edge, mark.place, "<" if below else ">", color=mark.colour, markersize=6, clip_on=False, zorder=4)
    axes.annotate(
        f"{mark.value:.1f}",
        (edge, mark.place),
        xytext=(7 if below else -7, 0),
        textcoords="offset points",
        ha="left" if below else "right",
        va="center",
        color=mark.colour,
        fontsize="x-small",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )


def _legend(panels: Sequence[_Panel], published_runs: int | None) -> Iterator[Line2D]:
    """What is drawn in the picture, and nothing else."""
    left = panels[0]
    ours = [mark for mark in left.marks if mark.marker == "o"]
    if any(mark.colour == OURS for mark in ours):
        yield handle("o", OURS, f"ours, last epoch{_bars(panels)}")
    if any(mark.best not in (None, mark.value) for mark in ours):
        yield handle("o", OURS, "best on test", hollow=True)
    if any(mark.colour == CONTROL for mark in ours):
        yield handle("o", CONTROL, "control")
    runs = "" if published_runs is None else f" over {published_runs} runs"
    for departs, words in ((False, "published"), (True, "published for another setting")):
        printed = [mark for panel in panels for mark in panel.marks if mark.marker == "D" and mark.hollow == departs]
        if printed:
            bars = f" (± deviation{runs})" if any(mark.error is not None for mark in printed) else ""
            yield handle("D", PUBLISHED, words + bars, hollow=departs)
    beyond = [(mark, panel) for panel in panels for mark in panel.beyond]
    if beyond:
        below = any(mark.value < panel.low for mark, panel in beyond)
        yield handle("<" if below else ">", "0.3", "beyond the axis: value given")


def _bars(panels: Sequence[_Panel]) -> str:
    """What the bars of ours are, on each side that has some."""
    has = [any(mark.error is not None for mark in panel.marks if mark.marker == "o") for panel in panels]
    names = ("left ± deviation", "right ± standard error") if len(panels) > 1 else ("± deviation",)
    words = ", ".join(name for name, there in zip(names, has, strict=True) if there)
    return f" ({words})" if words else ""


def _weight(line: Line) -> int:
    if line.entry.row.control:
        return MINOR
    return BASELINE if line.entry.row.baseline is None else ROW
