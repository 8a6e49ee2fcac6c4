"""The columns of a table: each with its cells as text, what they mean, and its fields of `table.csv`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kdrun.analysis.aggregate import Statistic
from kdrun.analysis.differences import Difference
from kdrun.analysis.tables import digits_of
from kdrun.tables import Definition, Entry
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
from kdrun.tables.controls import objective
from kdrun.tables.labels import method_label
from kdrun.tables.measure import MEASURES, Measure

Cell = str | int | float | None
Fields = Mapping[str, Cell]

STUDENT, METHOD = "student", "method"

ELSEWHERE = "†"
"""Mark of a figure in brackets that is published for another setting."""


MEANINGS: Mapping[str, str] = {
    "objective": "the loss with its effective weights; KL per image (batchmean)",
    BEST: "at the epoch that is best on the test set: optimistic",
    SELECTED: "at the epoch that is best on the validation images (early stopping)",
    "Δ published": "the published figure less the published baseline",
    "Δ last": "less the baseline of the same student, paired by seed, mean ± standard error",
    TRAIN: "of the last epoch on its training views, in training mode, while the weights changed",
    "ensemble": "of the mean of the probabilities of a row's runs",
    CONFIDENCE: "mean over the test images of the teachers' largest probability",
    "gradient %": "share of each weighted term in the gradient of the student's parameters, |g_i| / Σ |g_j|, on the "
    "first batch of the last epoch (of the last stage with several terms)",
    SECONDS: "training without evaluation; in lockstep a student's own steps and an even share of the rest",
    "learned beside": "parameters learned beside the student, no part of it",
}
"""Of the columns whose names need an explanation."""


@dataclass(frozen=True)
class Column:
    """A column of the main table; one without any text is not shown.

    Attributes:
        header: its name.
        text: the cell of a row.
        fields: the row's fields of `table.csv`, at full precision, the same names for each row.
        option: of a definition's `columns`; empty for columns of every table.
        meaning: where the header needs an explanation.
    """

    header: str
    text: Callable[[Line], str]
    fields: Callable[[Line], Fields] = lambda _: {}
    option: str = ""
    meaning: str = ""


def fixed_columns(definition: Definition, lines: Sequence[Line]) -> list[Column]:
    """Those before the figures of derived rows and evaluations."""
    measure = MEASURES[definition.measure]
    sizes = {line.entry.specs[0].recipe.batch_size for line in lines if line.entry.specs}

    def batch(line: Line) -> str:
        return f"{line.entry.specs[0].recipe.batch_size}" if line.entry.specs and len(sizes) > 1 else ""

    def difference(line: Line) -> str:
        return "" if line.difference_published is None else measure.signed(line.difference_published)

    def last_difference(line: Line) -> Fields:
        of_means = line.difference_of_means_last
        return {"difference_of_means_last": of_means, **_difference_fields("difference_last", line.difference_last)}

    def best_difference(line: Line) -> Fields:
        return _difference_fields("difference_best", line.difference_best)

    return [
        Column(STUDENT, lambda line: line.student),
        Column(METHOD, lambda line: method_label(line.entry)),
        Column("objective", lambda line: objective_of(line.entry)),
        Column("batch", batch),
        *_apart("published", lambda line: _published(line, measure), lambda line: bool(line.entry.row.departs)),
        _numbers(LAST, "last", measure.digits),
        _numbers(BEST, "best", measure.digits),
        _numbers(SELECTED, "selected", measure.digits, "selected"),
        *_apart("Δ published", difference, lambda line: line.difference_departs),
        Column("Δ last", lambda line: measure.difference(line.difference_last), last_difference),
        Column("Δ best on test", lambda line: measure.difference(line.difference_best), best_difference),
        _numbers(TRAIN, "train_top1", 2, "train_top1"),
    ]


def last_columns(definition: Definition) -> list[Column]:
    """Those after the figures: ensembles, teachers, gradients and costs."""
    measure = MEASURES[definition.measure]

    def ensemble(line: Line) -> str:
        ours = "" if line.ensemble is None else f"{line.ensemble:{measure.form}}"
        return _beside(line, ours, line.published.ensemble, measure.form)

    def teacher(line: Line) -> str:
        return _beside(line, _digits(line.teacher, measure.digits), line.published.teacher_top1, ".2f")

    def share_fields(line: Line) -> Fields:
        return {"shares": " ".join(f"{name}={share.mean}" for name, share in line.shares.items())}

    def seconds(line: Line) -> str:
        return f"{line.statistics[SECONDS].mean:.3g}" if SECONDS in line.statistics else ""

    def second_fields(line: Line) -> Fields:
        return _statistic_fields("epoch_seconds", line.statistics.get(SECONDS))

    def learned(line: Line) -> str:
        return f"{line.extra_params:,}" if line.extra_params and "extra_params" in definition.columns else ""

    return [
        Column("ensemble", ensemble, lambda line: {f"ensemble_{measure.name}": line.ensemble}, "ensemble"),
        Column(TEACHER, teacher, lambda line: _statistic_fields("teacher", line.teacher)),
        _numbers(CONFIDENCE, "teacher_confidence", 3, "teacher_confidence"),
        Column("gradient %", _shares, share_fields, "shares"),
        Column(SECONDS, seconds, second_fields, "seconds"),
        Column("learned beside", learned, lambda line: {"extra_params": line.extra_params}, "extra_params"),
        Column("runs", _runs),
    ]


def error_columns(lines: Sequence[Line], *, published: bool) -> list[Column]:
    """One for each set of classes that rows name; in the CSV file they share their fields."""
    classes = dict.fromkeys(errors_column(line.entry.row) for line in lines if line.entry.row.errors_on)

    def column(name: str) -> Column:
        def text(line: Line) -> str:
            if not line.entry.row.errors_on or errors_column(line.entry.row) != name:
                return ""
            return _beside(line, _digits(line.statistics.get(name), 1), line.published.errors_on, "g")

        return Column(name, text, fields)

    def fields(line: Line) -> Fields:
        printed = {"published_errors_on_classes": line.published.errors_on} if published else {}
        found = _statistic_fields("errors_on_classes", line.statistics.get(errors_column(line.entry.row)))
        return {"classes": " ".join(map(str, line.entry.row.errors_on)), **printed, **found}

    return [column(name) for name in classes]


def figure_columns(lines: Sequence[Line], *, published: bool) -> list[Column]:
    """One for each figure of derived rows and of evaluations."""
    meanings = {name: text for line in lines for each in line.entry.derived[:1] for name, text in each.figures.items()}

    def column(name: str) -> Column:
        digits = digits_of(name)

        def text(line: Line) -> str:
            ours = _digits(line.figures.get(name), digits)
            return _beside(line, ours, line.published.figures.get(name), f".{digits}f")

        def fields(line: Line) -> Fields:
            printed = {f"published_{name}": line.published.figures.get(name)} if published else {}
            return {**printed, **_statistic_fields(name, line.figures.get(name))}

        return Column(name, text, fields, meaning=meanings.get(name, ""))

    return [column(name) for name in figures_of(lines)]


def objective_of(entry: Entry) -> str:
    """The loss of a row's runs, or what is computed from others; nothing for a row that kdrun cannot run."""
    if entry.derived:
        return entry.derived[0].words()
    return objective(entry.specs[0]) if entry.specs else ""


def _numbers(header: str, field: str, digits: int, option: str = "") -> Column:
    """A column of `Line.statistics`."""

    def text(line: Line) -> str:
        return _digits(line.statistics.get(header), digits)

    return Column(header, text, lambda line: _statistic_fields(field, line.statistics.get(header)), option)


def _apart(name: str, text: Callable[[Line], str], departs: Callable[[Line], bool]) -> list[Column]:
    """Two columns: published figures comparable with ours, and published figures of another setting."""
    return [
        Column(name, lambda line: "" if departs(line) else text(line)),
        Column(f"{name} for another setting", lambda line: text(line) if departs(line) else ""),
    ]


def _published(line: Line, measure: Measure) -> str:
    """The published figure, or a printed gain in brackets."""
    printed = line.published
    if printed.figure is None:
        return "" if printed.gain is None else f"({measure.signed(printed.gain)})"
    return " ± ".join(f"{value:{measure.form}}" for value in (printed.figure, printed.std) if value is not None)


def _beside(line: Line, ours: str, printed: float | None, form: str) -> str:
    """Our figure, and the published one in brackets, marked where it is of another setting."""
    if printed is None:
        return ours
    return f"{ours} ({printed:{form}}{ELSEWHERE if line.entry.row.departs else ''})".lstrip()


def _digits(statistic: Statistic | None, digits: int) -> str:
    return "" if statistic is None else statistic.text(digits)


def _shares(line: Line) -> str:
    """`20.1 ce, 79.9 kd`; two significant digits below 1 %."""
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


def _statistic_fields(name: str, statistic: Statistic | None) -> Fields:
    mean, deviation = (None, None) if statistic is None else (statistic.mean, statistic.deviation)
    return {f"{name}_mean": mean, f"{name}_std": deviation}


def _difference_fields(name: str, found: Difference | None) -> Fields:
    numbers = (None,) * 4 if found is None else (found.mean, found.standard_error, found.pairs, found.degrees)
    return dict(zip((f"{name}_{part}" for part in ("mean", "se", "n", "df")), numbers, strict=True))
