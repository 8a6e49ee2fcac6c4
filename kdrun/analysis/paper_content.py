"""What a paper's table says, as text that is not yet Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdrun.analysis.aggregate import Statistic
from kdrun.analysis.comparison import Line
from kdrun.analysis.paper_text import caption, footnotes, notes_of
from kdrun.analysis.paper_words import difference, heading, method_label, signed
from kdrun.tables import Definition
from kdrun.tables.controls import objective

WORDS = ("student", "method", "objective")
"""Columns that are no figures; the first ones."""


@dataclass(frozen=True)
class Content:
    """A table in words.

    Attributes:
        heading: its title, with the data.
        source: paper and table; empty where there is none.
        sentences: what a reader needs beside the figures.
        header: names of the columns.
        rows: their cells.
        words: how many columns are no figures; they come first.
        notes: of single rows, each with the mark that the rows bear: `[1] a doubt`.
    """

    heading: str
    source: str
    sentences: Sequence[str]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int
    notes: Sequence[str]


def content(definition: Definition, lines: Sequence[Line], *, published: bool, elsewhere: Path | None) -> Content:
    """Everything a table says.

    Args:
        definition: the table.
        lines: the rows.
        published: whether the paper's figures are shown.
        elsewhere: where published results of runs lie.
    """
    numbers = footnotes(lines, published=published)
    marks = ["".join(f" [{numbers[text]}]" for text in notes_of(line, published=published)) for line in lines]
    header, rows = _cells(lines, marks, definition.columns, published=published)
    return Content(
        heading=heading(definition, lines, published=published),
        source=definition.source,
        sentences=caption(definition, lines, published=published, elsewhere=elsewhere),
        header=header,
        rows=rows,
        words=sum(name in WORDS for name in header),
        notes=[f"[{number}] {text}" for text, number in numbers.items()],
    )


def _cells(
    lines: Sequence[Line], marks: Sequence[str], extra: Sequence[str], *, published: bool
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text; columns without any content are left out, student and method never.

    Args:
        lines: the rows.
        marks: what follows each row's method.
        extra: columns of the definition.
        published: whether the paper's figures are shown.
    """
    columns: dict[str, list[str]] = {
        "student": [line.entry.student for line in lines],
        "method": [method_label(line.entry) + mark for line, mark in zip(lines, marks, strict=True)],
        "objective": [objective(line.entry.specs[0]) if line.entry.specs else "" for line in lines],
        "batch": _batch_sizes(lines),
        "published": [_published(line) if published else "" for line in lines],
        "ours, last epoch": [_text(line.last) for line in lines],
        "best on test": [_text(line.best) for line in lines],
        "Δ published": [_published_difference(line) if published else "" for line in lines],
        "Δ last": [difference(line.difference_last) for line in lines],
        "Δ best on test": [difference(line.difference_best) for line in lines],
        "ensemble": [_ensemble(line, published=published) for line in lines] if "ensemble" in extra else [],
        "teacher": [_teacher(line, published=published) for line in lines],
        "its confidence": [_digits(line.teacher_confidence, 3) for line in lines]
        if "teacher_confidence" in extra
        else [],
        "s / epoch": [_seconds(line) for line in lines] if "seconds" in extra else [],
        "learned beside": [_extra(line) for line in lines] if "extra_params" in extra else [],
        "runs": [_runs(line) for line in lines],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells) or name in ("student", "method")}
    return list(shown), [list(row) for row in zip(*shown.values(), strict=True)]


def _batch_sizes(lines: Sequence[Line]) -> list[str]:
    """Images per step of each row, where the rows differ in it."""
    sizes = [f"{line.entry.specs[0].recipe.batch_size}" if line.entry.specs else "" for line in lines]
    return sizes if len({*sizes} - {""}) > 1 else [""] * len(lines)


def _text(statistic: Statistic | None) -> str:
    return "" if statistic is None else statistic.text()


def _published(line: Line) -> str:
    printed = line.entry.row.published
    if printed.top1 is None:
        return "" if printed.gain is None else f"({signed(printed.gain)})"
    return f"{printed.top1:.2f}" + ("" if printed.std is None else f" ± {printed.std:.2f}")


def _published_difference(line: Line) -> str:
    return "" if line.difference_published is None else signed(line.difference_published)


def _teacher(line: Line, *, published: bool) -> str:
    printed = line.entry.row.published.teacher_top1 if published else None
    return " ".join(text for text in (_text(line.teacher), "" if printed is None else f"({printed:.2f})") if text)


def _ensemble(line: Line, *, published: bool) -> str:
    printed = line.entry.row.published.ensemble if published else None
    shown = ("" if line.ensemble is None else f"{line.ensemble:.2f}", "" if printed is None else f"({printed:.2f})")
    return " ".join(text for text in shown if text)


def _digits(statistic: Statistic | None, digits: int) -> str:
    return "" if statistic is None else statistic.text(digits)


def _seconds(line: Line) -> str:
    return "" if line.seconds is None else f"{line.seconds.mean:.3g}"


def _extra(line: Line) -> str:
    return f"{line.extra_params:,}" if line.extra_params else ""


def _runs(line: Line) -> str:
    """`3`, or `2 of 3`; nothing for a row that kdrun cannot run."""
    asked = len(line.entry.specs)
    if not asked:
        return ""
    return str(asked) if not line.missing else f"{len(line.runs)} of {asked}"
