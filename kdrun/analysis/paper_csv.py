"""A paper's table as CSV: every number, unrounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from kdrun.analysis.aggregate import Statistic
from kdrun.analysis.comparison import Line
from kdrun.analysis.paper_text import published_runs
from kdrun.tables.controls import objective


def csv_text(lines: Sequence[Line], *, columns: Sequence[str], published: bool, elsewhere: Path | None) -> str:
    """A line for each row, full precision; the same for the same runs, byte for byte.

    Columns: `seeds` are the runs asked for, `n` those finished; `_std` is the sample deviation over seeds, `_se` the
    standard error of a mean of differences that are paired by seed; `published_runs` are those of `n` that lie in
    `elsewhere`, the directory of published results. `columns` are those that the definition asks for.
    """
    rows = [_record(line, columns, published=published, elsewhere=elsewhere) for line in lines]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else ["row"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _record(
    line: Line, columns: Sequence[str], *, published: bool, elsewhere: Path | None
) -> dict[str, str | int | float | None]:
    entry, row, specs = line.entry, line.entry.row, line.entry.specs
    printed = row.published
    figures = {
        "published": printed.top1,
        "published_std": printed.std,
        "published_gain": printed.gain,
        "published_teacher_top1": printed.teacher_top1,
        **({"published_ensemble": printed.ensemble} if "ensemble" in columns else {}),
    }
    return {
        "row": row.name,
        "student": entry.student,
        "kind": row.kind,
        "teacher": entry.teacher,
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
        **(_mean_and_std("epoch_seconds", line.seconds) if "seconds" in columns else {}),
        **({"extra_params": line.extra_params} if "extra_params" in columns else {}),
        **(_mean_and_std("teacher_confidence", line.teacher_confidence) if "teacher_confidence" in columns else {}),
        **({"ensemble_top1": line.ensemble} if "ensemble" in columns else {}),
        "run_ids": " ".join(run.spec.run_id for _, run in sorted(line.runs.items())),
        "published_runs": published_runs(line, elsewhere),
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
