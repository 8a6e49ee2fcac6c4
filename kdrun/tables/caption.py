"""The sentences above a paper's table that must be computed, and what its columns mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from kdrun.metrics import ECE_BINS
from kdrun.tables import Definition, Row
from kdrun.tables.columns import MEANINGS, Column
from kdrun.tables.compare import Line
from kdrun.tables.contrasts import Contrast
from kdrun.tables.labels import counted, has_published, listed, scale_of
from kdrun.tables.noise import what_it_can_show


def caption(
    definition: Definition,
    lines: Sequence[Line],
    contrasts: Sequence[Contrast],
    columns: Sequence[Column],
    *,
    published: bool,
    elsewhere: Path | None,
) -> list[str]:
    """What a reader needs beside the figures, a paragraph each.

    Args:
        definition: the table.
        lines: the rows that are shown.
        contrasts: their further differences.
        columns: shown in the main table.
        published: whether the paper's figures are shown.
        elsewhere: directory of published results of runs.
    """
    return [
        *_runs(definition, lines, elsewhere),
        *_numbers(definition, lines, columns),
        *_published(definition, lines),
        *what_it_can_show(definition, lines, contrasts),
        *_shown_once(lines),
        *(definition.notes if published or not definition.has_published else ()),
    ]


def _runs(definition: Definition, lines: Sequence[Line], elsewhere: Path | None) -> Iterator[str]:
    if definition.unavailable:
        yield f"Published figures only: {definition.unavailable}."
    asked, missing = sum(line.entry.asked for line in lines), sum(line.missing for line in lines)
    if asked:
        yield f"Runs: {scale_of(lines)}."
    if missing:
        rest = "; means are over the others" if missing < asked else ""
        yield f"Missing or failed: {missing} of {counted([asked], 'run')}{rest}."
    taken = sum(line.published_runs(elsewhere) for line in lines)
    if taken:
        yield f"From {elsewhere}: {taken} of {counted([asked], 'run')}."


def _numbers(definition: Definition, lines: Sequence[Line], columns: Sequence[Column]) -> Iterator[str]:
    """What the numbers are, then the columns that need words."""
    if any(line.last for line in lines):
        several = any(line.last is not None and line.last.n > 1 for line in lines)
        what = "Number of wrong test images" if definition.measure == "errors" else "Top-1 on the test set in percent"
        yield f"{what}{', mean ± sample deviation over the seeds' if several else ''}."
    meanings = [(column.header, MEANINGS.get(column.header, column.meaning)) for column in columns]
    yield from (f'"{header}": {meaning}.' for header, meaning in meanings if meaning)
    evaluations = {each.name: each.evaluation for line in lines for each in line.entry.named_evaluations}
    words = [column.header.split(" ", 1) for column in columns]
    shown = [(on, figure) for on, *figures in words if on in evaluations for figure in figures]
    for on in dict.fromkeys(on for on, _ in shown):
        yield f'"{on} ...": at the last epoch, of {evaluations[on].what}.'
    figures = {figure for _, figure in shown}
    if "ECE" in figures:
        yield f'"ECE" has {ECE_BINS} bins.'
    explained = {figure: text for each in evaluations.values() for figure, text in each.meanings.items()}
    yield from (f'"{figure}": {text}.' for figure, text in explained.items() if figure in figures)


def _published(definition: Definition, lines: Sequence[Line]) -> Iterator[str]:
    """How many runs the paper's figures are of, and in what they are of another setting than ours."""
    printed = [line.entry.row for line in lines if has_published(line)]
    if printed:
        runs = f"over {counted([definition.runs], 'run')}" if definition.runs else "number of runs not stated"
        yield f'"published", and figures in brackets: the paper\'s, {runs}.'
    reasons: dict[str, list[str]] = {}
    for row in printed:
        reasons.setdefault(row.departs, []).append(row.name)
    for reason, names in reasons.items():
        if reason:
            which = "" if len(reasons) == 1 else f" ({listed(names)})"
            yield f"Published for another setting (†), so levels do not compare{which}: {reason}."


def _shown_once(lines: Sequence[Line]) -> Iterator[str]:
    """Rows that are the same runs as another one, and rows whose controls are those of another row."""
    repeated = {name for line in lines for name in line.entry.same_as}
    same: dict[str, list[str]] = {}
    controls: dict[str, list[str]] = {}
    for place, row in ((line.entry.row, Row(name)) for line in lines for name in line.entry.same_as):
        if row.control is not None and row.owner in repeated:
            continue  # the sentence on its row covers its controls too
        if row.control is not None and row.control == place.control:
            controls.setdefault(place.owner, []).append(row.owner)
        else:
            same.setdefault(place.name, []).append(row.name)
    yield from (f"The same runs as {name}: {listed(names)}." for name, names in same.items())
    yield from (f"Controls not listed under {listed(names)} are those of {name}." for name, names in controls.items())
