"""Rows less their controls and other rows, as a picture: a dot with its standard error, a panel for each figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.analysis.differences import Difference
from kdrun.analysis.evaluations import SHARES
from kdrun.analysis.plots import figure, set_heading, style
from kdrun.tables.compare import BEST, LAST, SELECTED
from kdrun.tables.contrasts import Contrast, columns_of
from kdrun.tables.labels import method_label
from kdrun.tables.measure import Measure
from kdrun.tables.render.dots import CONTROL, OURS, handle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDEST = 4
"""Panels beside one another, at most."""

PANEL, NAME_LETTER, ROW_INCHES, AROUND_PANEL, AROUND_FIGURE = 2.6, 0.075, 0.24, 0.75, 1.0
"""Inches."""

KINDS = {
    "baseline": (OURS, "less its baseline"),
    "control": (CONTROL, "less a control"),
    "row": ("C2", "less another row"),
}
"""Colours, and words for the legend."""


def draw_differences(path: Path, contrasts: Sequence[Contrast], measure: Measure, *, title: str) -> None:
    """A panel for each figure: every pair of rows as a dot with a bar of one standard error, and a line at zero.

    Args:
        path: of the PNG; deleted where there is no pair.
        contrasts: the pairs.
        measure: of the table.
        title: of the picture.
    """
    columns = [column for column in columns_of(contrasts) if column != BEST and "ECE of " not in column]
    if not columns:
        path.unlink(missing_ok=True)
        return
    wide = min(WIDEST, len(columns))
    high = math.ceil(len(columns) / wide)
    names = [_name(contrast) for contrast in contrasts]
    width = NAME_LETTER * max(map(len, names)) + PANEL * wide + 0.3
    with figure(path, width, AROUND_FIGURE + high * (AROUND_PANEL + ROW_INCHES * len(contrasts))) as drawn:
        grid = drawn.subplots(high, wide, sharey=True, squeeze=False).flatten().tolist()
        for axes, column in zip(grid, columns, strict=False):
            found = {i: each.differences[column] for i, each in enumerate(contrasts) if column in each.differences}
            _draw(axes, contrasts, found)
            axes.set_title(_with_unit(column, measure), fontsize="small")
        grid[0].set_yticks(range(len(names)), names)
        grid[0].set_ylim(len(names) - 0.4, -0.6)
        for axes in grid[len(columns) :]:
            axes.set_axis_off()
        set_heading(drawn, f"{title}: differences ± standard error")
        kinds = dict.fromkeys(contrast.kind for contrast in contrasts)
        handles = [handle("o", *KINDS[kind]) for kind in kinds]
        drawn.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize="small")


def _draw(axes: Axes, contrasts: Sequence[Contrast], found: Mapping[int, Difference]) -> None:
    from matplotlib.ticker import MaxNLocator

    style(axes)
    axes.axvline(0, color="0.3", linewidth=1, zorder=1)
    for place, each in found.items():
        colour, _ = KINDS[contrasts[place].kind]
        axes.errorbar(
            each.mean, place, xerr=each.standard_error, fmt="o", color=colour, markersize=4.7, capsize=2, zorder=4
        )
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(labelsize="small")


def _name(contrast: Contrast) -> str:
    """`mobilenetv2  KD ← resnet18 - control uniform`; of a control its name is enough."""
    other = contrast.other.entry.row.control or method_label(contrast.other.entry)
    return f"{contrast.line.student}  {method_label(contrast.line.entry)} − {other}"


def _with_unit(column: str, measure: Measure) -> str:
    """A column with the unit of its differences."""
    if column in (LAST, BEST, SELECTED):
        return f"{column} ({measure.difference_unit})"
    plain = column.startswith("errors on ") or "perplexity" in column or any(share in column for share in SHARES)
    return column if plain else f"{column} (points)"
