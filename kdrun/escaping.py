"""Escapes foreign text (names of classes, networks, options, files) in kdrun's output, by one function a format.

Every format shows control characters, and characters that change the direction of text, as escapes such as `\\x1b`.
Figures need no escaping: their mathematical notation is switched off.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence

JOINERS = "\u200c\u200d"
"""Invisible characters in words of some scripts."""

FORMULA = tuple("=+-@\uff0b\uff0d\uff1d\uff20")
"""Spreadsheets compute a cell that begins with one of these, also in full width."""

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    **{character: f"\\{character}" for character in "_%&#$"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "†": r"$\dagger$",
    "←": r"$\leftarrow$",
    "²": "$^2$",
    "ε": r"$\varepsilon$",
}


def printable(text: str, *, keep: str = "") -> str:
    """A text with its control characters as escapes: those of terminals, line breaks, halves of surrogate pairs.

    Args:
        text: any.
        keep: characters to keep, such as the line breaks of a message.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character in keep or not _is_control(character) else _escape(character) for character in text
    )


def printable_lines(text: str) -> str:
    """As `printable`, for a message of several lines."""
    return printable(text, keep="\n\t")


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in JOINERS


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def markdown(text: str) -> str:
    """A line of Markdown that shows a text: no HTML, no link."""
    return printable(text.replace("\\", "\\\\")).replace("<", r"\<").replace("](", r"]\(")


def markdown_cell(text: str) -> str:
    """A cell of a Markdown table that shows a text."""
    return markdown(text).replace("|", r"\|")


def markdown_code(text: str) -> str:
    """A text between more backticks than it contains in a row."""
    shown = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " * (len(fence) > 1)
    return f"{fence}{space}{shown}{space}{fence}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Cells as a Markdown table that can be read as it is: the first `left` columns to the left, the others right."""
    header, *rows = ([markdown_cell(cell) for cell in row] for row in [header, *rows])
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rule = ["-" * (width + 1) + ("-" if i < left else ":") for i, width in enumerate(widths)]
    lines = [
        _aligned_row(header, widths, left),
        f"|{'|'.join(rule)}|",
        *(_aligned_row(row, widths, left) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _aligned_row(cells: Sequence[str], widths: Sequence[int], left: int) -> str:
    pairs = enumerate(zip(cells, widths, strict=True))
    padded = [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in pairs]
    return "| " + " | ".join(padded) + " |"


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV; a text that a spreadsheet would compute begins with an apostrophe, None is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([_csv_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return file.getvalue()


def _csv_cell(text: str) -> str:
    shown = printable(text)
    return f"'{shown}" if shown.lstrip().startswith(FORMULA) and not _is_number(shown) else shown


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def latex(text: str) -> str:
    """Text for LaTeX: special characters, the table's symbols, quotation marks, and minus signs before numbers."""
    quoted = re.sub(r'"([^"]*)"', r"``\1''", printable(text))
    plain = "".join(LATEX.get(character, character) for character in quoted)
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", plain)


def latex_row(cells: Sequence[str]) -> str:
    r"""A row of a LaTeX table; a `[` or `*` at its beginning would be an argument of the `\\` before it."""
    row = " & ".join(map(latex, cells))
    return f"{{}}{row} \\\\" if row.lstrip().startswith(("[", "*")) else f"{row} \\\\"


def legend_label(text: str) -> str:
    """A label for a legend of matplotlib, which drops labels that begin with an underscore."""
    return f" {text}" if text.startswith("_") else text
