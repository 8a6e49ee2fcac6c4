"""Rows of a table less other rows: their baselines, their controls, and the rows they are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kdrun.analysis.differences import Difference, difference
from kdrun.tables.compare import BEST, LAST, Line
from kdrun.tables.controls import CONTROLS


@dataclass(frozen=True)
class Contrast:
    """A row less another one.

    Attributes:
        line: the row.
        other: the line of the other row.
        name: of the other row, which may be shown under the name of another row of the same runs.
        kind: what the other row is to this one.
        differences: by column, of the columns both rows have.
    """

    line: Line
    other: Line
    name: str
    kind: Literal["baseline", "control", "row"]
    differences: Mapping[str, Difference]


def contrasts(lines: Sequence[Line]) -> list[Contrast]:
    """Each row less its controls and the rows it is set `against`, in order.

    Where rows have more figures than those of the last and the best epoch, less its baseline too: the main table has
    no column for these differences.
    """
    place = {name: line for line in lines for name in (line.entry.row.name, *line.entry.same_as)}
    found = []
    for line in lines:
        for kind, name in _others(line):
            other = place.get(name)
            if other is None or other is line:
                continue
            differences = {
                column: each
                for column, values in line.values.items()
                if column in other.values
                and (each := difference(values, other.values[column], same_seeds=line.entry.seeds == other.entry.seeds))
            }
            if differences.keys() - ({LAST, BEST} if kind == "baseline" else set()):
                found.append(Contrast(line, other, name, kind, differences))
    return found


def _others(line: Line) -> Iterator[tuple[Literal["baseline", "control", "row"], str]]:
    row = line.entry.row
    if row.baseline is not None:
        yield "baseline", row.baseline
    if row.control is None:
        for control in CONTROLS:
            yield "control", f"{row.name}/{control}"
    for name in row.against:
        yield "row", name


def columns_of(found: Sequence[Contrast]) -> list[str]:
    """The columns of the differences, in the order in which the lines have them."""
    return list(dict.fromkeys(column for contrast in found for column in contrast.differences))
