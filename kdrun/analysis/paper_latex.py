"""A paper's table as LaTeX that can be pasted into a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdrun.analysis.paper_content import Content

LONG = 40
"""Rows; more of them do not fit a page."""

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    **{character: f"\\{character}" for character in "_%&#$"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "←": r"$\leftarrow$",
    "²": "$^2$",
    "ε": r"$\varepsilon$",
}


def latex(content: Content) -> str:
    """The table, its caption, and below it everything that the Markdown says, as a `table`; a long one breaks pages."""
    columns = "l" * content.words + "r" * (len(content.header) - content.words)
    return "\n".join([*(_long if len(content.rows) > LONG else _floating)(content, columns), ""])


def _floating(content: Content, columns: str) -> list[str]:
    return [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        _caption(content),
        rf"\begin{{tabular}}{{{columns}}}",
        *_head(content),
        *_body(content),
        r"\bottomrule",
        r"\end{tabular}",
        *_below(content),
        r"\end{table}",
    ]


def _long(content: Content, columns: str) -> list[str]:
    return [
        r"% needs \usepackage{booktabs,longtable}",
        r"\begingroup",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\begin{{longtable}}{{{columns}}}",
        rf"{_caption(content)} \\",
        *_head(content),
        r"\endhead",
        *_body(content),
        r"\bottomrule",
        r"\end{longtable}",
        *_below(content),
        r"\endgroup",
    ]


def _caption(content: Content) -> str:
    sentences = (content.heading, content.source)
    return rf"\caption{{{' '.join(escaped(sentence) + '.' for sentence in sentences if sentence)}}}"


def _head(content: Content) -> list[str]:
    return [r"\toprule", _row(content.header), r"\midrule"]


def _body(content: Content) -> list[str]:
    return [_row(cells) for cells in content.rows]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"


def _below(content: Content) -> list[str]:
    """The sentences and notes, a paragraph each."""
    paragraphs = [rf"{escaped(text)}\par" for text in (*content.sentences, *content.notes)]
    if not paragraphs:
        return []
    return [r"\par\smallskip", r"{\footnotesize\raggedright\setlength{\parindent}{0pt}", *paragraphs, "}"]


def escaped(text: str) -> str:
    """Text for LaTeX: special characters, the table's symbols, quotation marks, and minus signs before numbers."""
    quoted = re.sub(r'"([^"]*)"', r"``\1''", text)
    plain = "".join(LATEX.get(character, character) for character in quoted)
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", plain)
