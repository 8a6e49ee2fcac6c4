"""The accuracy of a table's runs in its evaluations, by kind of question: attractors, distance, paradigm."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.analysis.aggregate import Statistic
from kdrun.analysis.plots import figure, grid, legend_below, set_heading, style
from kdrun.escaping import csv_text
from kdrun.experiment.derived import Derived
from kdrun.files import write_atomically
from kdrun.papers.abnar2020.looks import Look, looks
from kdrun.tables import Definition
from kdrun.tables.compare import Line
from kdrun.tables.figures import Figure, Rendering

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADER = ("row", "evaluation", "kind", "bucket", "mean", "std", "n")

FARTHEST = {"distance": 16}
"""Buckets beyond are not drawn: few questions are in them, how few is not known."""

CHANCE = 50.0
"""Percent: each question has two answers."""

PANEL, PANEL_HEIGHT, LEGEND_LINE, AROUND = 4.2, 3.0, 0.2, 0.8
"""Inches."""

WORD_LETTERS = 20
"""On a line of a bucket's name: panels beside it would be small where it were longer."""

ASIDE = 0.15
"""How far from a bucket's place the outermost rows stand, of the way to the next one, so that all bars are seen."""

Kind = tuple[str, str]
"""An evaluation and the property its questions are grouped by."""


@dataclass(frozen=True)
class Series:
    """The accuracies of a row in percent, over its finished seeds, by bucket."""

    line: Line
    buckets: Mapping[str, Statistic]


class BucketsFigure(Figure):
    """Accuracies in the table's evaluations by bucket: `buckets.csv`, with every bucket, and `buckets.png`."""

    files = ("buckets.png", "buckets.csv")

    def check(self, definition: Definition) -> Iterator[str]:
        if not definition.evaluations:
            yield "needs evaluations, the table has none"

    def draw(self, table: Rendering) -> None:
        found: dict[Kind, list[Series]] = {}
        for name in table.definition.evaluations:
            for line in table.lines:
                for kind, shares in _shares(line, name, table.kept).items():
                    found.setdefault((name, kind), []).append(Series(line, shares))
        if not found:
            return
        rows = [
            (series.line.entry.row.name, *kind, bucket, share.mean, share.deviation, share.n)
            for kind, members in found.items()
            for series in members
            for bucket, share in series.buckets.items()
        ]
        write_atomically(table.directory / "buckets.csv", csv_text([HEADER, *rows]))
        _draw(table.directory / "buckets.png", found, table.title)


def _shares(
    line: Line, name: str, kept: Callable[[Derived], Mapping[str, Any] | None]
) -> dict[str, dict[str, Statistic]]:
    """A row's accuracy in an evaluation by kind and bucket, numbers in order."""
    values: dict[str, dict[str, list[float]]] = {}
    for record in (kept(each) for each in line.entry.evaluations(name)):
        for kind, shares in record["buckets"].items() if record is not None and "buckets" in record else ():
            for bucket, share in shares.items():
                values.setdefault(kind, {}).setdefault(bucket, []).append(share)
    return {
        kind: {bucket: Statistic.of(of_seeds[bucket]) for bucket in _in_order(of_seeds)}
        for kind, of_seeds in values.items()
    }


def _in_order(names: Mapping[str, Any]) -> list[str]:
    """Numbers by size; words as they come."""
    return sorted(names, key=int) if _are_numbers(names) else list(names)


def _are_numbers(names: Mapping[str, Any]) -> bool:
    return all(name.isdecimal() for name in names)


def _draw(path: Path, found: Mapping[Kind, Sequence[Series]], title: str) -> None:
    """A panel for each kind of bucket of each evaluation, a line or a set of dots for each row."""
    shown = {series.line.entry.row.name: series.line for members in found.values() for series in members}
    look_of = dict(zip(shown, looks(list(shown.values())), strict=True))
    columns = min(2, len(found))
    rows, legend_columns = math.ceil(len(found) / columns), columns + 1
    width = AROUND + PANEL * columns
    height = AROUND + PANEL_HEIGHT * rows + LEGEND_LINE * math.ceil(len(shown) / legend_columns)
    with figure(path, width, height) as drawn:
        for axes, ((name, kind), members) in zip(grid(drawn, len(found), columns), found.items(), strict=True):
            style(axes)
            _draw_kind(axes, kind, [(series.buckets, look_of[series.line.entry.row.name]) for series in members])
            axes.set_title(name, fontsize="medium")
        several = any(share.n > 1 for members in found.values() for each in members for share in each.buckets.values())
        set_heading(drawn, f"{title}: accuracy by what is asked{', mean ± deviation over seeds' if several else ''}")
        legend_below(drawn, [look.handle() for look in look_of.values()], legend_columns, handlelength=3.5)


def _draw_kind(axes: Axes, kind: str, rows: Sequence[tuple[Mapping[str, Statistic], Look]]) -> None:
    """Accuracy over numbers, as lines; over words, as dots at their names."""
    from matplotlib.ticker import MaxNLocator

    names = dict.fromkeys(bucket for shares, _ in rows for bucket in shares)
    numbers = _are_numbers(names)
    farthest = FARTHEST.get(kind, math.inf)
    place = {name: float(name) if numbers else float(i) for i, name in enumerate(names)}
    for i, (shares, look) in enumerate(rows):
        aside = ASIDE * (2 * (i + 0.5) / len(rows) - 1)
        near = {bucket: share for bucket, share in shares.items() if not numbers or int(bucket) <= farthest}
        at = [place[bucket] + aside for bucket in near]
        means, bars = [share.mean for share in near.values()], [share.deviation or 0 for share in near.values()]
        if numbers:
            axes.errorbar(at, means, yerr=bars, **look.options, linestyle=look.line)
        else:
            axes.errorbar(means, at, xerr=bars, **look.options, linestyle="")
    along, across = (axes.xaxis, axes.yaxis) if numbers else (axes.yaxis, axes.xaxis)
    across.set_label_text("accuracy (%)")
    low = (axes.get_ylim() if numbers else axes.get_xlim())[0]
    if low < CHANCE:
        (axes.axhline if numbers else axes.axvline)(CHANCE, color="0.6", linewidth=0.8, zorder=1)
    if numbers:
        along.set_label_text(kind)
        along.set_major_locator(MaxNLocator(integer=True))
    else:
        words = [textwrap.fill(name.replace("_", " "), WORD_LETTERS) for name in place]
        axes.set_yticks(list(place.values()), words, fontsize="x-small")
        axes.set_ylim(len(place) - 0.5, -0.5)
