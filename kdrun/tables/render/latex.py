"""A paper's table as LaTeX that can be pasted into a paper."""

from __future__ import annotations

from collections.abc import Sequence

from kdrun.escaping import latex, latex_row
from kdrun.tables.content import Cells, Content

LONG = 40
"""Rows; more of them do not fit a page."""


def latex_table(content: Content) -> str:
    """A `table` with its caption and, below, all sentences and notes; a `longtable` where it is longer than a page."""
    parts = [content.main, *([content.differences] if content.differences else [])]
    long = any(len(part.rows) > LONG for part in parts)
    return "\n".join([*(_long if long else _floating)(content, parts), ""])


def _floating(content: Content, parts: Sequence[Cells]) -> list[str]:
    return [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        _caption(content),
        *_joined([[rf"\begin{{tabular}}{{{_columns(part)}}}", *_grid(part), r"\end{tabular}"] for part in parts]),
        *_below(content),
        r"\end{table}",
    ]


def _long(content: Content, parts: Sequence[Cells]) -> list[str]:
    captions = [[rf"{_caption(content)} \\"], *[[] for _ in parts[1:]]]
    grids = [
        [rf"\begin{{longtable}}{{{_columns(part)}}}", *caption, *_grid(part, head=r"\endhead"), r"\end{longtable}"]
        for part, caption in zip(parts, captions, strict=True)
    ]
    return [
        r"% needs \usepackage{booktabs,longtable}",
        r"\begingroup",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        *_joined(grids),
        *_below(content),
        r"\endgroup",
    ]


def _caption(content: Content) -> str:
    sentences = (content.heading, content.source)
    return rf"\caption{{{' '.join(latex(sentence) + '.' for sentence in sentences if sentence)}}}"


def _columns(cells: Cells) -> str:
    return "l" * cells.words + "r" * (len(cells.header) - cells.words)


def _grid(cells: Cells, head: str | None = None) -> list[str]:
    """Its lines, between rules; `head` ends what each page repeats."""
    header = [r"\toprule", latex_row(cells.header), r"\midrule", *([] if head is None else [head])]
    return [*header, *(latex_row(row) for row in cells.rows), r"\bottomrule"]


def _joined(grids: Sequence[Sequence[str]]) -> list[str]:
    """Below one another."""
    first, *others = grids
    return [*first, *(line for grid in others for line in (r"\par\medskip", *grid))]


def _below(content: Content) -> list[str]:
    """The sentences and notes, a paragraph each."""
    paragraphs = [rf"{latex(text)}\par" for text in (*content.sentences, *content.notes)]
    if not paragraphs:
        return []
    return [r"\par\smallskip", r"{\footnotesize\raggedright\setlength{\parindent}{0pt}", *paragraphs, "}"]
