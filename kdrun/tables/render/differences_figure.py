"""Rows less their controls and other rows, as a figure: a dot with its standard error, a panel for each column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdrun.analysis.tables import SHARES
from kdrun.tables.compare import BEST, LAST, SELECTED
from kdrun.tables.contrasts import Contrast, columns_of
from kdrun.tables.labels import method_label
from kdrun.tables.measure import Measure
from kdrun.tables.render.panels import CONTROL, OTHER, OURS, WIDEST, Mark, Names, Panel, draw_panels, handle

KINDS = {
    "baseline": (OURS, "less its baseline"),
    "control": (CONTROL, "less a control"),
    "row": (OTHER, "less another row"),
}
"""Colours, and words for the legend."""


def draw_differences(path: Path, contrasts: Sequence[Contrast], measure: Measure, *, title: str) -> None:
    """A panel for each column: every pair of rows as a dot with a bar of one standard error, and a line at zero.

    Args:
        path: of the PNG; deleted where there is no pair.
        contrasts: the pairs.
        measure: of the table.
        title: of the picture.
    """
    shown = [column for column in columns_of(contrasts) if column != BEST and "ECE of " not in column]
    if not shown:
        path.unlink(missing_ok=True)
        return
    panels = [Panel(_with_unit(column, measure), _marks(contrasts, column)) for column in shown]
    names = Names([_name(each) for each in contrasts], range(len(contrasts)), [False] * len(contrasts))
    kinds = dict.fromkeys(contrast.kind for contrast in contrasts)
    handles = [handle("o", *KINDS[kind]) for kind in kinds]
    columns = min(WIDEST, len(panels))
    draw_panels(path, panels, columns, names, handles, f"{title}: differences ± standard error", zero=True)


def _marks(contrasts: Sequence[Contrast], column: str) -> list[Mark]:
    found = [(place, each, each.differences.get(column)) for place, each in enumerate(contrasts)]
    return [Mark(x.mean, x.standard_error, place, KINDS[each.kind][0]) for place, each, x in found if x is not None]


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
