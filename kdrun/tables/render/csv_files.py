"""A paper's table as CSV: every number, unrounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.escaping import csv_text
from kdrun.tables import Definition
from kdrun.tables.columns import (
    Cell,
    error_columns,
    figure_columns,
    fixed_columns,
    last_columns,
    objective_of,
)
from kdrun.tables.compare import Line
from kdrun.tables.contrasts import Contrast
from kdrun.tables.definition import COLUMNS


def paper_csv(definition: Definition, lines: Sequence[Line], *, published: bool, elsewhere: Path | None) -> str:
    """A line for each row, full precision; the same for the same runs, byte for byte.

    Columns: `measure` is that of all figures of no other measure, absent where it is top-1 in percent; `seeds` are the
    requested runs (or derived figures), `n` the finished ones; `_std` is the sample deviation over seeds, `_se` the
    standard error of a difference, `_df` its degrees of freedom, `_n` the pairs, empty where runs are not paired by
    seed; `published_departs` is how a published figure's setting differs; `published_runs` are those of `n` that are
    stored in `elsewhere`, the directory of published results; `derived` are the keys of what is computed from runs.
    The definition's further columns follow, those of figures come last.
    """
    columns = [*fixed_columns(definition, lines), *last_columns(definition)]
    optional = [column for name in COLUMNS if name in definition.columns for column in columns if column.option == name]
    printed = published and definition.has_published
    figures = [*figure_columns(lines, published=printed), *error_columns(lines, published=published)]
    derived = any(line.entry.derived for line in lines)
    rows = []
    for line in lines:
        row = _identity(definition, line, published=published)
        for column in (*(column for column in columns if not column.option), *optional):
            row |= column.fields(line)
        row["run_ids"] = " ".join(run.spec.run_id for _, run in sorted(line.runs.items()))
        row["published_runs"] = line.published_runs(elsewhere)
        if derived:
            row["derived"] = " ".join(each.key for each in line.entry.derived)
        for column in figures:
            row |= column.fields(line)
        rows.append(row)
    return _text(rows)


def differences_csv(contrasts: Sequence[Contrast]) -> str:
    """A line for each figure of each row less another one, full precision.

    `less` is the other row's name, `kind` what it is to the row (baseline, control or row), `figure` the column; `se`,
    `df` and `n` are as in `paper_csv`.
    """
    return _text(
        [
            {
                "row": contrast.line.entry.row.name,
                "less": contrast.name,
                "kind": contrast.kind,
                "figure": column,
                "mean": found.mean,
                "se": found.standard_error,
                "df": found.degrees,
                "n": found.pairs,
            }
            for contrast in contrasts
            for column, found in contrast.differences.items()
        ]
    )


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(rows[0]) if rows else ["row"]
    return csv_text([names, *([row[name] for name in names] for row in rows)])


def _identity(definition: Definition, line: Line, *, published: bool) -> dict[str, Cell]:
    """What a row is, how many of its runs are finished, and what the paper prints."""
    entry, row, printed = line.entry, line.entry.row, line.published
    figures: dict[str, Cell] = {
        "published": printed.figure,
        "published_std": printed.std,
        "published_gain": printed.gain,
        "published_teacher_top1": printed.teacher_top1,
        **({"published_ensemble": printed.ensemble} if "ensemble" in definition.columns else {}),
        "published_departs": row.departs,
    }
    return {
        "row": row.name,
        "student": entry.student,
        "kind": row.kind,
        "teacher": entry.teacher,
        "control": row.control,
        "objective": objective_of(entry),
        **({"measure": definition.measure} if definition.measure != "top1" else {}),
        "seeds": entry.asked,
        "n": line.finished,
        "missing": line.missing,
        **(figures if published else {}),
    }
