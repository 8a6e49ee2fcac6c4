"""A paper's table as a heat map: rows of the table on a grid of two options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.analysis.plots import figure, set_heading
from kdrun.tables import Grid
from kdrun.tables.compare import Line
from kdrun.tables.labels import method_label
from kdrun.tables.measure import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LIGHT = 0.55
"""Beyond this share of the colours a cell is so light that its number is dark."""


def heatmap(path: Path, lines: Sequence[Line], grid: Grid, measure: Measure, *, title: str) -> None:
    """The mean of each row in its cell; the best of each line of cells is framed.

    A row without the option of the columns (a baseline without a temperature) has a column under its own label.

    Args:
        path: of the PNG; a picture of nothing is not there afterwards.
        lines: the rows; controls and derived rows are not drawn.
        grid: where they stand.
        measure: of the figures.
        title: of the picture.
    """
    cells = _cells(lines, grid)
    if not cells:
        path.unlink(missing_ok=True)
        return
    rows, columns = (list(_in_order(place[axis] for place in cells)) for axis in (0, 1))
    several = any(line.last is not None and line.last.n > 1 for line in lines)
    with figure(path, 2.8 + 0.85 * len(columns), 1.7 + 0.5 * len(rows)) as drawn:
        axes = drawn.add_subplot()
        values = [[cells.get((row, column), float("nan")) for column in columns] for row in rows]
        image = axes.imshow(values, cmap="viridis_r" if measure.fewer else "viridis", aspect="auto")
        axes.set_xticks(range(len(columns)), [_word(column) for column in columns])
        axes.set_yticks(range(len(rows)), [_word(row) for row in rows])
        axes.set(xlabel=grid.columns, ylabel=grid.rows)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        low, high = min(cells.values()), max(cells.values())
        for (row, column), value in cells.items():
            share = (value - low) / (high - low) if high > low else 0.5
            light = (1 - share if measure.fewer else share) > LIGHT
            text = f"{value:.{measure.digits}f}"
            place = columns.index(column), rows.index(row)
            axes.text(*place, text, ha="center", va="center", fontsize="small", color="0" if light else "1")
        _frame_best(axes, values, measure)
        drawn.colorbar(image, label=measure.unit + ("\n(mean over seeds)" if several else ""))
        set_heading(drawn, f"{title}: the best of each line is framed")


def _cells(lines: Sequence[Line], grid: Grid) -> Mapping[tuple[Any, Any], float]:
    """The mean by place; what is not finished, and what has no place, is absent."""
    cells = {}
    for line in lines:
        if line.entry.row.control is None and line.entry.specs and line.last is not None:
            row, column = grid.place(line.entry.specs[0])
            if row is not None:
                cells[row, method_label(line.entry) if column is None else column] = line.last.mean
    return cells


def _in_order(values: Any) -> Sequence[Any]:
    """Each once: words as they come, then numbers (or lists of them) by size."""
    different = list(dict.fromkeys(values))
    words = [value for value in different if isinstance(value, str)]
    return [*words, *sorted(value for value in different if not isinstance(value, str))]


def _word(value: Any) -> str:
    return ", ".join(map(_word, value)) if isinstance(value, tuple) else f"{value:g}" if value != str(value) else value


def _frame_best(axes: Axes, values: Sequence[Sequence[float]], measure: Measure) -> None:
    from matplotlib.patches import Rectangle

    for i, line in enumerate(values):
        known = [value for value in line if value == value]
        best = min(known) if measure.fewer else max(known)
        for j, value in enumerate(line):
            if value == best:
                frame = Rectangle((j - 0.47, i - 0.46), 0.94, 0.92, fill=False, edgecolor="C3", linewidth=2.2)
                axes.add_patch(frame)
