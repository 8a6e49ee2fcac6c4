"""A paper's table as CSV: every number, unrounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.analysis.aggregate import Statistic
from kdrun.analysis.differences import Difference
from kdrun.escaping import csv_text
from kdrun.tables import Definition
from kdrun.tables.compare import CONFIDENCE, SECONDS, SELECTED, TRAIN, Line, errors_column, figures_of
from kdrun.tables.content import objective_of
from kdrun.tables.contrasts import Contrast

Cell = str | int | float | None


def paper_csv(definition: Definition, lines: Sequence[Line], *, published: bool, elsewhere: Path | None) -> str:
    """A line for each row, full precision; the same for the same runs, byte for byte.

    Columns: `measure` is that of all figures that do not say theirs, absent where it is top-1 in percent; `seeds` are
    the runs (or derived figures) asked for, `n` those finished; `_std` is the sample deviation over seeds, `_se` the
    standard error of a difference, `_df` its degrees of freedom, `_n` the pairs, empty where runs are not paired by
    seed; `published_departs` is in what a published figure is of another setting; `published_runs` are those of `n`
    that lie in `elsewhere`, the directory of published results; `derived` are the keys of what is computed from runs.
    Further columns are those that the definition asks for.
    """
    figures = figures_of(lines)
    derived = any(line.entry.derived for line in lines)
    rows = [
        {
            **_record(definition, line, published=published, elsewhere=elsewhere),
            **({"derived": " ".join(each.key for each in line.entry.derived)} if derived else {}),
            **_figures(line, figures, published=published and definition.has_published),
            **(_on_classes(line, published=published) if any(line.entry.row.errors_on for line in lines) else {}),
        }
        for line in lines
    ]
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


def _record(definition: Definition, line: Line, *, published: bool, elsewhere: Path | None) -> dict[str, Cell]:
    entry, row, columns = line.entry, line.entry.row, definition.columns
    printed = line.published
    figures = {
        "published": printed.figure,
        "published_std": printed.std,
        "published_gain": printed.gain,
        "published_teacher_top1": printed.teacher_top1,
        **({"published_ensemble": printed.ensemble} if "ensemble" in columns else {}),
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
        **_mean_and_std("last", line.last),
        **_mean_and_std("best", line.best),
        "difference_of_means_last": line.difference_of_means_last,
        **_difference("difference_last", line.difference_last),
        **_difference("difference_best", line.difference_best),
        **_mean_and_std("teacher", line.teacher),
        **{
            name: cell
            for column, cells in _asked(definition, line)
            if column in columns
            for name, cell in cells.items()
        },
        "run_ids": " ".join(run.spec.run_id for _, run in sorted(line.runs.items())),
        "published_runs": line.published_runs(elsewhere),
    }


def _asked(definition: Definition, line: Line) -> Iterator[tuple[str, Mapping[str, Cell]]]:
    """The cells of each column that a definition can ask for."""
    statistics = line.statistics
    yield "seconds", _mean_and_std("epoch_seconds", statistics.get(SECONDS))
    yield "extra_params", {"extra_params": line.extra_params}
    yield "teacher_confidence", _mean_and_std("teacher_confidence", statistics.get(CONFIDENCE))
    yield "ensemble", {f"ensemble_{definition.measure}": line.ensemble}
    yield "train_top1", _mean_and_std("train_top1", statistics.get(TRAIN))
    yield "selected", _mean_and_std("selected", statistics.get(SELECTED))
    yield "shares", {"shares": " ".join(f"{name}={share.mean}" for name, share in line.shares.items())}


def _figures(line: Line, names: Sequence[str], *, published: bool) -> dict[str, Cell]:
    """What derived rows and evaluations found, by name."""
    printed = line.published.figures
    found: dict[str, Cell] = {}
    for name in names:
        found |= {f"published_{name}": printed.get(name)} if published else {}
        found |= _mean_and_std(name, line.figures.get(name))
    return found


def _on_classes(line: Line, *, published: bool) -> dict[str, Cell]:
    row = line.entry.row
    printed = {"published_errors_on_classes": line.published.errors_on} if published else {}
    found = _mean_and_std("errors_on_classes", line.statistics.get(errors_column(row)))
    return {"classes": " ".join(map(str, row.errors_on)), **printed, **found}


def _mean_and_std(name: str, statistic: Statistic | None) -> dict[str, Cell]:
    return {
        f"{name}_mean": None if statistic is None else statistic.mean,
        f"{name}_std": None if statistic is None else statistic.deviation,
    }


def _difference(name: str, found: Difference | None) -> dict[str, Cell]:
    return {
        f"{name}_mean": None if found is None else found.mean,
        f"{name}_se": None if found is None else found.standard_error,
        f"{name}_n": None if found is None else found.pairs,
        f"{name}_df": None if found is None else found.degrees,
    }
