"""The words of a paper's table: what a row is called, and the sentences above and below the table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kdrun.analysis.aggregate import Statistic
from kdrun.analysis.comparison import Line
from kdrun.experiment.build import all_options
from kdrun.experiment.spec import Spec
from kdrun.tables import Definition, Entry, Row
from kdrun.tables.controls import divided_by_classes

CLEAR_OF_ZERO = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""By n: the 97.5 % quantile of Student's t with n - 1 degrees of freedom."""


def caption(definition: Definition, lines: Sequence[Line], *, published: bool) -> list[str]:
    """The sentences that a reader needs beside the figures, a paragraph each.

    Args:
        definition: the table.
        lines: those that are shown.
        published: whether the paper's figures are shown.
    """
    return [
        *_how_it_was_run(definition, lines),
        *_what_stands_where(definition, lines, published=published),
        *_what_it_can_show(lines),
        *_what_is_shown_once(lines),
        *(definition.notes if published else ()),
    ]


def _how_it_was_run(definition: Definition, lines: Sequence[Line]) -> Iterator[str]:
    specs = [spec for line in lines for spec in line.entry.specs]
    if definition.unavailable:
        yield f"Published figures only: {definition.unavailable}."
    if specs:
        yield f"Runs: {scale_of(lines)}."
        missing = sum(line.missing for line in lines)
        if missing:
            yield f"{missing} of {len(specs)} runs are missing; their cells are blank."
    classes = sorted({spec.dataset.num_classes for spec in specs if divided_by_classes(spec.method)})
    if definition.num_classes is not None and classes and _keeps_weights(definition, lines):
        yield (
            f"The loss divides the KL by K: multipliers are m K/{definition.num_classes} "
            f"(K={listed(map(str, classes))}), so that the effective weights are the published ones."
        )


def _keeps_weights(definition: Definition, lines: Sequence[Line]) -> bool:
    """Whether every row's multiplier is the published one times K / K_paper, at another K than the paper's.

    It is not where the user has set it.
    """
    rows = [line.entry for line in lines if line.entry.specs and line.entry.row.control is None]
    pairs = [(entry, entry.specs[0]) for entry in rows if divided_by_classes(entry.specs[0].method)]
    for entry, spec in pairs:
        typed = dict(text.split("=", 1) for text in (*definition.overrides, *entry.row.overrides))
        kept = float(typed.get("method.multiplier", 1)) * spec.dataset.num_classes / (definition.num_classes or 1)
        if spec.dataset.num_classes == definition.num_classes or not math.isclose(kept, _multiplier(spec)):
            return False
    return bool(pairs)


def _multiplier(spec: Spec) -> float:
    multiplier: float = all_options(spec.method)["multiplier"]
    return multiplier


def _what_stands_where(definition: Definition, lines: Sequence[Line], *, published: bool) -> Iterator[str]:
    several = any(line.last is not None and line.last.n > 1 for line in lines)
    if any(line.last for line in lines):
        spread = ", mean ± sample deviation over the seeds" if several else ""
        yield (
            f"Top-1 on the test set in percent{spread}. The last epoch is the headline; "
            '"best on test" is of the epoch that is best on the test set, an optimistic figure.'
        )
    if any(line.difference_last for line in lines):
        yield (
            '"Δ last" and "Δ best on test": what a row has over the baseline of the same student, paired by seed'
            f"{', mean ± standard error' if several else ''}."
        )
    shown = [line for line in lines if has_published(line)]
    if shown and not published:
        yield "The paper's figures are left out: these runs are not of its scale."
    elif shown:
        yield from _what_is_published(definition, shown)
    if any(line.teacher for line in lines):
        brackets = "; in brackets as published" if published and any(_published_teacher(line) for line in lines) else ""
        yield f'"teacher": top-1 of the teachers, each at its last epoch{brackets}.'


def _what_is_published(definition: Definition, lines: Sequence[Line]) -> Iterator[str]:
    count = f", over {definition.runs} runs" if definition.runs else " (it does not say over how many runs)"
    compare = '; those of its best epoch compare with "best on test"' if any(line.last for line in lines) else ""
    yield f'"published": the paper\'s figures{count}{compare}.'
    if any(line.difference_published is not None for line in lines):
        alone = any(line.entry.row.published.top1 is None for line in lines)
        gain = "; where the paper prints only a gain (in brackets), that gain" if alone else ""
        yield f'"Δ published": the published accuracy less the published baseline{gain}.'


def _what_it_can_show(lines: Sequence[Line]) -> Iterator[str]:
    """How far a difference can be noise: of the test images, and of the seeds."""
    finished = [(line.entry.specs[0].dataset.test_size, line.last.mean) for line in lines if line.last is not None]
    if not finished:
        return
    images = {size for size, _ in finished}
    if len(images) == 1:
        (size,) = images
        share = statistics.fmean(mean for _, mean in finished) / 100
        points = 100 * math.sqrt(share * (1 - share) / size)
        yield f"{size} test images: a sampling error of ± {points:.2g} points for one run, common to all seeds."
    counts = sorted({line.difference_last.n for line in lines if line.difference_last is not None})
    if counts == [1]:
        yield "With one seed nothing can be said about whether a Δ is clear of zero."
    several = [f"{_clear(n)} standard errors (n = {n})" for n in counts if n > 1]
    if several:
        yield f"A Δ is clear of zero at 95 % only beyond {listed(several, last='or')}: Student's t, one comparison."


def _what_is_shown_once(lines: Sequence[Line]) -> Iterator[str]:
    """Rows that are the same runs as another one."""
    for line in lines:
        same = [name for name in line.entry.same_as if Row(name).control is None]
        if same:
            yield f"{listed(same)} {'are' if len(same) > 1 else 'is'} the same runs as {line.entry.row.name}."
    if any(Row(name).control for line in lines for name in line.entry.same_as):
        yield "A control that is the same runs as another row, or as another row's control, stands once."


def footnotes(lines: Sequence[Line], *, published: bool) -> dict[str, int]:
    """Numbers of the notes under the table, by text: doubts about published figures, and why a row has no runs."""
    texts = [text for line in lines for text in notes_of(line, published=published)]
    return {text: number for number, text in enumerate(dict.fromkeys(texts), start=1)}


def notes_of(line: Line, *, published: bool) -> list[str]:
    """The notes of one row."""
    row = line.entry.row
    if not published:
        return []
    return [text for text in (row.note, f"not run: {row.unavailable}" if row.unavailable else "") if text]


def _published_teacher(line: Line) -> bool:
    return line.entry.row.published.teacher_top1 is not None


def _clear(n: int) -> str:
    return f"{CLEAR_OF_ZERO[n]:.2f}" if n in CLEAR_OF_ZERO else "about 2"
