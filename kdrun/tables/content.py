"""The text of a paper's table, before it is formatted as Markdown or LaTeX."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdrun.analysis.tables import digits_of
from kdrun.tables import Definition, Row
from kdrun.tables.caption import caption
from kdrun.tables.columns import METHOD, STUDENT, Column, error_columns, figure_columns, fixed_columns, last_columns
from kdrun.tables.compare import BEST, LAST, SELECTED, Line
from kdrun.tables.contrasts import Contrast, columns_of
from kdrun.tables.labels import heading, method_label
from kdrun.tables.measure import MEASURES, Measure, signed

WORDS = ("student", "method", "objective", "less")
"""Columns that are no figures; the first ones."""


@dataclass(frozen=True)
class Cells:
    """A grid of text.

    Attributes:
        header: names of the columns.
        rows: their cells.
        words: how many columns are no figures; they come first.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int


@dataclass(frozen=True)
class Content:
    """A table in words.

    Attributes:
        heading: its title, with the data.
        source: paper and table; empty where there is none.
        sentences: what a reader needs beside the figures.
        main: the rows with their figures.
        notes: of single rows, each with the mark that the rows bear: `[1] a doubt`.
        differences: a row less another one; None where there is no such pair.
    """

    heading: str
    source: str
    sentences: Sequence[str]
    main: Cells
    notes: Sequence[str]
    differences: Cells | None = None


def content(
    definition: Definition,
    lines: Sequence[Line],
    contrasts: Sequence[Contrast],
    *,
    published: bool,
    elsewhere: Path | None,
) -> Content:
    """All text of a table.

    Args:
        definition: the table.
        lines: the rows.
        contrasts: their differences to other rows than the main table has.
        published: whether the paper's figures are shown.
        elsewhere: directory of published results of runs.
    """
    notes = [_notes(line.entry.row) for line in lines]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(itertools.chain(*notes)), start=1)}
    marks = ["".join(f" [{numbers[text]}]" for text in texts) for texts in notes]
    columns = [
        *fixed_columns(definition, lines),
        *error_columns(lines, published=published),
        *figure_columns(lines, published=published),
        *last_columns(definition),
    ]
    main = _main(columns, lines, marks)
    shown = [column for column in columns if column.header in main.header]
    return Content(
        heading=heading(definition, lines, published=published),
        source=definition.source,
        sentences=caption(definition, lines, contrasts, shown, published=published, elsewhere=elsewhere),
        main=main,
        notes=[f"[{number}] {text}" for text, number in numbers.items()],
        differences=_differences(contrasts, MEASURES[definition.measure]) if contrasts else None,
    )


def _main(columns: Sequence[Column], lines: Sequence[Line], marks: Sequence[str]) -> Cells:
    """The rows in text; `marks` follow each row's method."""
    texts = {column.header: [column.text(line) for line in lines] for column in columns}
    texts[METHOD] = [text + mark for text, mark in zip(texts[METHOD], marks, strict=True)]
    return _filled(texts)


def _filled(columns: Mapping[str, Sequence[str]]) -> Cells:
    """Columns of text without the empty ones; student and method are always there."""
    shown = {name: cells for name, cells in columns.items() if any(cells) or name in (STUDENT, METHOD)}
    rows = [list(row) for row in zip(*shown.values(), strict=True)]
    return Cells(list(shown), rows, words=sum(name in WORDS for name in shown))


def _differences(contrasts: Sequence[Contrast], measure: Measure) -> Cells:
    """Each row less another one: a line for each pair, a column for each figure that both have."""

    def cell(contrast: Contrast, column: str) -> str:
        found = contrast.differences.get(column)
        return "" if found is None else signed(found.mean, found.standard_error, _digits_in(column, measure))

    def pairs(contrast: Contrast) -> str:
        counts = {found.pairs for found in contrast.differences.values()}
        return "not paired" if None in counts else "/".join(map(str, sorted(count or 0 for count in counts)))

    return _filled(
        {
            "student": [contrast.line.student for contrast in contrasts],
            "method": [method_label(contrast.line.entry) for contrast in contrasts],
            "less": [method_label(contrast.other.entry) for contrast in contrasts],
            **{column: [cell(each, column) for each in contrasts] for column in columns_of(contrasts)},
            "pairs": [pairs(contrast) for contrast in contrasts],
        }
    )


def _digits_in(column: str, measure: Measure) -> int:
    """Behind the point, of a column of differences."""
    if column in (LAST, BEST, SELECTED):
        return measure.digits
    return 1 if column.startswith("errors on ") else digits_of(column)


def _notes(row: Row) -> list[str]:
    """Doubts about a row's published figure, and why it has no runs."""
    return [text for text in (row.note, f"not run: {row.unavailable}" if row.unavailable else "") if text]
