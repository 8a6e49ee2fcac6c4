"""A paper's table as a heat map: rows of the table on a grid of two options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdrun.analysis.plots import figure, set_heading
from kdrun.experiment.derived import Derived
from kdrun.spec.components import all_options
from kdrun.spec.spec import Component, Spec
from kdrun.tables import Entry
from kdrun.tables.compare import Line
from kdrun.tables.figures import Figure, Rendering
from kdrun.tables.labels import method_label
from kdrun.tables.measure import MEASURES, Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = ("student", "method", "recipe", "dataset")
"""What an option on an axis can be of."""

LIGHT = 0.55
"""Beyond this share of the colours a cell is so light that its number is dark."""


@dataclass(frozen=True)
class HeatmapFigure(Figure):
    """The mean of each row on a grid of two axes; the best of each line of cells is framed.

    A row without the option of the columns (a baseline without a temperature) has a column under its own label.
    Controls and derived rows are not drawn.

    Attributes:
        rows: `student`, or an option such as `student.hidden`.
        columns: likewise.
    """

    rows: str = "student"
    columns: str = "method.temperature"

    files = ("heatmap.png",)

    def __post_init__(self) -> None:
        faulty = [
            f"{name}={value!r}: must be student, or an option of {', '.join(PARTS)} such as method.temperature"
            for name, value in (("rows", self.rows), ("columns", self.columns))
            if value != "student" and (value.partition(".")[0] not in PARTS or not value.partition(".")[2])
        ]
        if faulty:
            raise ValueError("\n".join(faulty))

    def needs(self, entries: Sequence[Entry]) -> Sequence[Derived]:
        """Nothing; raises ValueError where rows share a cell, or none has a place."""
        rows = [entry for entry in entries if entry.specs and entry.row.control is None]
        places = {entry.specs[0].run_id: (self.place(entry.specs[0]), entry.row) for entry in rows}
        for axis, chosen in enumerate((self.rows, self.columns)):
            if places and all(place[axis] is None for place, _ in places.values()):
                raise ValueError(f"no row has {chosen}")
        cells: dict[str, list[str]] = {}
        for (row, column), owner in places.values():
            if row is not None:
                cells.setdefault(repr((row, owner.kind if column is None else column)), []).append(owner.name)
        if shared := [names for names in cells.values() if len(names) > 1]:
            raise ValueError("\n".join(f"{' and '.join(names)} share one cell" for names in shared))
        return ()

    def place(self, spec: Spec) -> tuple[Any, Any]:
        """The row and column of a run; None for an option that its network or method does not have."""
        return _value(self.rows, spec), _value(self.columns, spec)

    def draw(self, table: Rendering) -> None:
        cells, measure = _cells(table.lines, self), MEASURES[table.definition.measure]
        if not cells:
            return
        rows, columns = (list(_in_order(place[axis] for place in cells)) for axis in (0, 1))
        several = any(line.last is not None and line.last.n > 1 for line in table.lines)
        with figure(table.directory / "heatmap.png", 2.8 + 0.85 * len(columns), 1.7 + 0.5 * len(rows)) as drawn:
            axes = drawn.add_subplot()
            values = [[cells.get((row, column), float("nan")) for column in columns] for row in rows]
            image = axes.imshow(values, cmap="viridis_r" if measure.fewer else "viridis", aspect="auto")
            axes.set_xticks(range(len(columns)), [_word(column) for column in columns])
            axes.set_yticks(range(len(rows)), [_word(row) for row in rows])
            axes.set(xlabel=self.columns, ylabel=self.rows)
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
            set_heading(drawn, f"{table.title}: the best of each line is framed")


def _value(axis: str, spec: Spec) -> Any:
    part, _, option = axis.partition(".")
    if not option:
        return spec.student.name
    owner = getattr(spec, part)
    return all_options(owner).get(option) if isinstance(owner, Component) else getattr(owner, option, None)


def _cells(lines: Sequence[Line], grid: HeatmapFigure) -> Mapping[tuple[Any, Any], float]:
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
