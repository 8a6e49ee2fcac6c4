"""A paper's table as LaTeX that can be pasted into a paper."""

from __future__ import annotations

from kdrun.escaping import latex, latex_row
from kdrun.tables.content import Cells, Content

LONG = 40
"""Rows; more of them do not fit a page."""


def latex_table(content: Content) -> str:
    """A `table` with its caption and, below, all sentences and notes; `longtable`s where it is longer than a page."""
    parts = [content.main, *([content.differences] if content.differences else [])]
    long = any(len(part.rows) > LONG for part in parts)
    packages, grid = ("booktabs,longtable", "longtable") if long else ("booktabs", "tabular")
    lines = [rf"% needs \usepackage{{{packages}}}", *([r"\begingroup"] if long else [r"\begin{table}", r"\centering"])]
    lines += [r"\footnotesize", r"\setlength{\tabcolsep}{3pt}", *([] if long else [_caption(content)])]
    for part in parts:
        first = part is content.main
        caption = [rf"{_caption(content)} \\"] if long and first else []
        begin, end = rf"\begin{{{grid}}}{{{_columns(part)}}}", rf"\end{{{grid}}}"
        lines += [*([] if first else [r"\par\medskip"]), begin, *caption, *_grid(part, repeated=long), end]
    lines += [*_below(content), r"\endgroup" if long else r"\end{table}", ""]
    return "\n".join(lines)


def _caption(content: Content) -> str:
    sentences = (content.heading, content.source)
    return rf"\caption{{{' '.join(latex(sentence) + '.' for sentence in sentences if sentence)}}}"


def _columns(cells: Cells) -> str:
    return "l" * cells.words + "r" * (len(cells.header) - cells.words)


def _grid(cells: Cells, *, repeated: bool) -> list[str]:
    """Its lines, between rules; a `repeated` header is that of every page."""
    header = [r"\toprule", latex_row(cells.header), r"\midrule", *([r"\endhead"] if repeated else [])]
    return [*header, *(latex_row(row) for row in cells.rows), r"\bottomrule"]


def _below(content: Content) -> list[str]:
    """The sentences and notes, a paragraph each."""
    paragraphs = [rf"{latex(text)}\par" for text in (*content.sentences, *content.notes)]
    if not paragraphs:
        return []
    return [r"\par\smallskip", r"{\footnotesize\raggedright\setlength{\parindent}{0pt}", *paragraphs, "}"]
