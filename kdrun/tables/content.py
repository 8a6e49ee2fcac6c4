"""What a paper's table says, as text that is not yet Markdown or LaTeX."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdrun.analysis.aggregate import Statistic
from kdrun.analysis.tables import digits_of
from kdrun.tables import Definition, Entry, Row
from kdrun.tables.caption import caption
from kdrun.tables.compare import (
    BEST,
    CONFIDENCE,
    LAST,
    SECONDS,
    SELECTED,
    TEACHER,
    TRAIN,
    Line,
    errors_column,
    figures_of,
)
from kdrun.tables.contrasts import Contrast, columns_of
from kdrun.tables.controls import objective
from kdrun.tables.labels import heading, method_label
from kdrun.tables.measure import MEASURES, Measure, signed

WORDS = ("student", "method", "objective", "less")
"""Columns that are no figures; the first ones."""

ELSEWHERE = "†"
"""Mark of a figure in brackets that is published for another setting."""


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
    """Everything a table says.

    Args:
        definition: the table.
        lines: the rows.
        contrasts: their differences to other rows than the main table has.
        published: whether the paper's figures are shown.
        elsewhere: where published results of runs lie.
    """
    notes = [_notes(line.entry.row) for line in lines]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(itertools.chain(*notes)), start=1)}
    marks = ["".join(f" [{numbers[text]}]" for text in texts) for texts in notes]
    main = _main(lines, marks, definition)
    return Content(
        heading=heading(definition, lines, published=published),
        source=definition.source,
        sentences=caption(definition, lines, contrasts, main.header, published=published, elsewhere=elsewhere),
        main=main,
        notes=[f"[{number}] {text}" for text, number in numbers.items()],
        differences=_differences(contrasts, MEASURES[definition.measure]) if contrasts else None,
    )


def _main(lines: Sequence[Line], marks: Sequence[str], definition: Definition) -> Cells:
    """The rows in text; `marks` follow each row's method."""
    measure = MEASURES[definition.measure]

    def numbers(column: str, digits: int) -> list[str]:
        return [_digits(line.statistics.get(column), digits) for line in lines]

    def ensemble(line: Line) -> str:
        return "" if line.ensemble is None else f"{line.ensemble:{measure.form}}"

    columns: dict[str, list[str]] = {
        "student": [line.student for line in lines],
        "method": [method_label(line.entry) + mark for line, mark in zip(lines, marks, strict=True)],
        "objective": [objective_of(line.entry) for line in lines],
        "batch": _batch_sizes(lines),
        **_published(lines, measure),
        **{column: numbers(column, measure.digits) for column in (LAST, BEST, SELECTED)},
        **_published_differences(lines, measure),
        "Δ last": [measure.difference(line.difference_last) for line in lines],
        "Δ best on test": [measure.difference(line.difference_best) for line in lines],
        TRAIN: numbers(TRAIN, 2),
        **_errors_on(lines),
        **_figures(lines),
        "ensemble": [_beside(line, ensemble(line), line.published.ensemble, measure.form) for line in lines],
        TEACHER: [
            _beside(line, _digits(line.teacher, measure.digits), line.published.teacher_top1, ".2f") for line in lines
        ],
        CONFIDENCE: numbers(CONFIDENCE, 3),
        "gradient %": [_shares(line) for line in lines],
        SECONDS: [f"{line.statistics[SECONDS].mean:.3g}" if SECONDS in line.statistics else "" for line in lines],
        "learned beside": [
            f"{line.extra_params:,}" if line.extra_params and "extra_params" in definition.columns else ""
            for line in lines
        ],
        "runs": [_runs(line) for line in lines],
    }
    return _filled(columns)


def _filled(columns: Mapping[str, Sequence[str]]) -> Cells:
    """Columns of text without the empty ones; student and method are always there."""
    shown = {name: cells for name, cells in columns.items() if any(cells) or name in ("student", "method")}
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


def _batch_sizes(lines: Sequence[Line]) -> list[str]:
    """Images per step of each row, where the rows differ in it."""
    sizes = [f"{line.entry.specs[0].recipe.batch_size}" if line.entry.specs else "" for line in lines]
    return sizes if len({*sizes} - {""}) > 1 else [""] * len(lines)


def objective_of(entry: Entry) -> str:
    """The loss of a row's runs, or what is computed from others; nothing for a row that kdrun cannot run."""
    if entry.derived:
        return entry.derived[0].words()
    return objective(entry.specs[0]) if entry.specs else ""


def _published(lines: Sequence[Line], measure: Measure) -> dict[str, list[str]]:
    """The published figures, or printed gains in brackets; those for another setting have a column of their own."""

    def text(line: Line) -> str:
        printed = line.published
        if printed.figure is None:
            return "" if printed.gain is None else f"({measure.signed(printed.gain)})"
        return " ± ".join(f"{value:{measure.form}}" for value in (printed.figure, printed.std) if value is not None)

    return _apart("published", [(text(line), bool(line.entry.row.departs)) for line in lines])


def _published_differences(lines: Sequence[Line], measure: Measure) -> dict[str, list[str]]:
    found = [(line.difference_published, line.difference_departs) for line in lines]
    return _apart("Δ published", [("" if x is None else measure.signed(x), departs) for x, departs in found])


def _apart(name: str, cells: Sequence[tuple[str, bool]]) -> dict[str, list[str]]:
    """Two columns of cells: of those that compare with ours, and of those that depart."""
    return {
        name: ["" if departs else text for text, departs in cells],
        f"{name} for another setting": [text if departs else "" for text, departs in cells],
    }


def _errors_on(lines: Sequence[Line]) -> dict[str, list[str]]:
    """A column for each set of classes that rows name."""
    columns: dict[str, list[str]] = {}
    for i, line in enumerate(lines):
        if line.entry.row.errors_on:
            name = errors_column(line.entry.row)
            cell = _beside(line, _digits(line.statistics.get(name), 1), line.published.errors_on, "g")
            columns.setdefault(name, [""] * len(lines))[i] = cell
    return columns


def _figures(lines: Sequence[Line]) -> dict[str, list[str]]:
    """A column for each figure of derived rows and of evaluations."""

    def cell(line: Line, name: str) -> str:
        digits = digits_of(name)
        return _beside(line, _digits(line.figures.get(name), digits), line.published.figures.get(name), f".{digits}f")

    return {name: [cell(line, name) for line in lines] for name in figures_of(lines)}


def _beside(line: Line, ours: str, printed: float | None, form: str) -> str:
    """Our figure, and the published one in brackets, marked where it is of another setting."""
    if printed is None:
        return ours
    return f"{ours} ({printed:{form}}{ELSEWHERE if line.entry.row.departs else ''})".lstrip()


def _digits(statistic: Statistic | None, digits: int) -> str:
    return "" if statistic is None else statistic.text(digits)


def _shares(line: Line) -> str:
    """`20.1 ce, 79.9 kd`; below 1 % two digits that count."""
    return ", ".join(
        f"{share.mean:.1f} {name}" if share.mean >= 1 else f"{share.mean:.2g} {name}"
        for name, share in line.shares.items()
    )


def _runs(line: Line) -> str:
    """`3`, or `2 of 3`; nothing for a row that kdrun cannot run."""
    asked = line.entry.asked
    if not asked:
        return ""
    return str(asked) if not line.missing else f"{line.finished} of {asked}"


def _notes(row: Row) -> list[str]:
    """Doubts about a row's published figure, and why it has no runs."""
    return [text for text in (row.note, f"not run: {row.unavailable}" if row.unavailable else "") if text]
