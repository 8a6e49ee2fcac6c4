"""A paper's table beside our runs: `table.md`, `table.csv`, `table.tex` and the pictures."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from kdrun.analysis.aggregate import Statistic
from kdrun.analysis.comparison import Line, compare
from kdrun.analysis.paper_plots import accuracy_dots, curves, teacher_accuracy
from kdrun.analysis.paper_text import (
    caption,
    difference,
    footnotes,
    heading,
    method_label,
    notes_of,
    scale_of,
    signed,
    teacher_of,
)
from kdrun.analysis.tables import aligned
from kdrun.experiment.spec import Spec
from kdrun.experiment.store import Run
from kdrun.files import write_atomically
from kdrun.tables import Definition, Entry
from kdrun.tables.controls import objective

WORDS = ("student", "method", "objective")
"""Columns that are no figures; the first ones."""

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


def render(
    directory: Path,
    definition: Definition,
    entries: Sequence[Entry],
    find: Callable[[Spec], Run | None],
    *,
    published: bool,
    command: str,
) -> str:
    """Writes `table.md`, `table.csv`, `table.tex`, `table.png` and the table's figures; returns the Markdown.

    A picture of which there is nothing to draw is not there afterwards.

    Args:
        directory: where they are written.
        definition: the table.
        entries: its rows in order, each followed by its controls.
        find: the finished run of a spec, or None.
        published: whether the runs are of the paper's scale, so that its figures stand beside them; else they are
            left out everywhere, and so are rows that have nothing else.
        command: that made the table, as typed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lines = [line for line in compare(entries, find) if line.entry.specs or (published and _is_published(line))]
    text = markdown(definition, lines, published=published, command=command)
    write_atomically(directory / "table.md", text)
    write_atomically(directory / "table.csv", csv_text(lines, published=published))
    write_atomically(directory / "table.tex", latex(definition, lines, published=published))
    title = heading(definition, lines, published=published)
    accuracy_dots(directory / "table.png", lines, published=published, title=title)
    if "curves" in definition.figures:
        curves(directory / "curves.png", lines, title=title)
    if "teacher_accuracy" in definition.figures:
        teacher_accuracy(directory / "teacher_accuracy.png", lines, title=title)
    return text


def markdown(definition: Definition, lines: Sequence[Line], *, published: bool, command: str) -> str:
    """The table with its caption, its notes and the command."""
    numbers = footnotes(lines, published=published)
    marks = ["".join(f" [{numbers[text]}]" for text in notes_of(line, published=published)) for line in lines]
    header, rows = _cells(lines, marks, published=published)
    sentences = [f"- {sentence}" for sentence in caption(definition, lines, published=published)]
    notes = [f"[{number}] {text}  " for text, number in numbers.items()]
    parts = [
        f"# {heading(definition, lines, published=published)}",
        *([f"{definition.source}."] * bool(definition.source)),
        "\n".join(sentences),
        aligned(header, rows, left=_count_words(header)).rstrip("\n"),
        *(["\n".join(notes)] * bool(notes)),
        f"`{command}`",
    ]
    return "\n\n".join(parts) + "\n"


def latex(definition: Definition, lines: Sequence[Line], *, published: bool) -> str:
    """The table as a `table` environment that needs the package booktabs only."""
    header, rows = _cells(lines, [""] * len(lines), published=published)
    words = _count_words(header)
    sentences = [heading(definition, lines, published=published), definition.source, scale_of(lines)]
    body = [" & ".join(map(escaped, cells)) + r" \\" for cells in rows]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            r"\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{' '.join(escaped(sentence) + '.' for sentence in sentences if sentence)}}}",
            rf"\begin{{tabular}}{{{'l' * words + 'r' * (len(header) - words)}}}",
            r"\toprule",
            " & ".join(map(escaped, header)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Text for LaTeX: special characters, the table's symbols, and minus signs before numbers."""
    plain = "".join(LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", plain)


def csv_text(lines: Sequence[Line], *, published: bool) -> str:
    """A line for each row, full precision; the same for the same runs, byte for byte.

    Columns: `seeds` are the runs asked for, `n` those finished; `_std` is the sample deviation over seeds, `_se` the
    standard error of a mean of differences that are paired by seed.
    """
    rows = [_record(line, published=published) for line in lines]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else ["row"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _record(line: Line, *, published: bool) -> dict[str, str | int | float | None]:
    row, specs = line.entry.row, line.entry.specs
    printed = row.published
    figures = {
        "published": printed.top1,
        "published_std": printed.std,
        "published_gain": printed.gain,
        "published_teacher_top1": printed.teacher_top1,
    }
    return {
        "row": row.name,
        "student": row.student,
        "kind": row.kind,
        "teacher": teacher_of(line.entry),
        "control": row.control,
        "objective": objective(specs[0]) if specs else None,
        "seeds": len(specs),
        "n": len(line.runs),
        "missing": line.missing,
        **(figures if published else {}),
        **_mean_and_std("last", line.last),
        **_mean_and_std("best", line.best),
        "difference_of_means_last": line.difference_of_means_last,
        **_paired("difference_last", line.difference_last),
        **_paired("difference_best", line.difference_best),
        **_mean_and_std("teacher", line.teacher),
        "run_ids": " ".join(run.spec.run_id for _, run in sorted(line.runs.items())),
    }


def _mean_and_std(name: str, statistic: Statistic | None) -> dict[str, float | None]:
    return {
        f"{name}_mean": None if statistic is None else statistic.mean,
        f"{name}_std": None if statistic is None else statistic.deviation,
    }


def _paired(name: str, statistic: Statistic | None) -> dict[str, float | None]:
    return {
        f"{name}_mean": None if statistic is None else statistic.mean,
        f"{name}_se": None if statistic is None else statistic.standard_error,
        f"{name}_n": None if statistic is None else statistic.n,
    }


def _cells(lines: Sequence[Line], marks: Sequence[str], *, published: bool) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text; columns without any content are left out, student and method never.

    Args:
        lines: the rows.
        marks: what follows each row's method.
        published: whether the paper's figures are shown.
    """
    columns: dict[str, list[str]] = {
        "student": [line.entry.row.student for line in lines],
        "method": [method_label(line.entry) + mark for line, mark in zip(lines, marks, strict=True)],
        "objective": [objective(line.entry.specs[0]) if line.entry.specs else "" for line in lines],
        "published": [_published(line) if published else "" for line in lines],
        "ours, last epoch": [_text(line.last) for line in lines],
        "best on test": [_text(line.best) for line in lines],
        "Δ published": [_published_difference(line) if published else "" for line in lines],
        "Δ last": [difference(line.difference_last) for line in lines],
        "Δ best on test": [difference(line.difference_best) for line in lines],
        "teacher": [_teacher(line, published=published) for line in lines],
        "runs": [_runs(line) for line in lines],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells) or name in ("student", "method")}
    return list(shown), [list(row) for row in zip(*shown.values(), strict=True)]


def _count_words(header: Sequence[str]) -> int:
    return sum(name in WORDS for name in header)


def _text(statistic: Statistic | None) -> str:
    return "" if statistic is None else statistic.text()


def _is_published(line: Line) -> bool:
    return line.entry.row.published.top1 is not None or line.entry.row.published.gain is not None


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


def _runs(line: Line) -> str:
    """`3`, or `2 of 3`; nothing for a row that kdrun cannot run."""
    asked = len(line.entry.specs)
    if not asked:
        return ""
    return str(asked) if not line.missing else f"{len(line.runs)} of {asked}"
