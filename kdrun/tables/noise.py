"""The sentences of a paper's table on its errors: how differences are formed, and which of them can be noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from kdrun.analysis.differences import Difference
from kdrun.tables import Definition
from kdrun.tables.compare import Line
from kdrun.tables.contrasts import Contrast
from kdrun.tables.labels import listed
from kdrun.tables.measure import MEASURES


def pairing(differences: Sequence[Difference | None]) -> str:
    """ ", paired by seed" where that is so of some."""
    return ", paired by seed" if any(found is not None and found.pairs is not None for found in differences) else ""


def what_differences_are(contrasts: Sequence[Contrast]) -> Iterator[str]:
    """What stands in the second table."""
    if not contrasts:
        return
    found = [each for contrast in contrasts for each in contrast.differences.values()]
    kinds = {contrast.kind for contrast in contrasts}
    words = {"baseline": "its baseline", "control": "its control", "row": "another row"}
    others = listed((word for kind, word in words.items() if kind in kinds), last="or")
    errors = ", mean ± standard error" if any(each.standard_error is not None for each in found) else ""
    yield f'"Differences": a row less {others}, figure by figure{pairing(found)}{errors}.'


def what_it_can_show(definition: Definition, lines: Sequence[Line], contrasts: Sequence[Contrast]) -> Iterator[str]:
    """How far a difference can be noise: of the test examples, and of the seeds."""
    yield from _sampling_error(definition, lines)
    found = [line.difference_last for line in lines if line.difference_last is not None]
    found += [each for contrast in contrasts for each in contrast.differences.values()]
    if found and all(each.degrees is None for each in found):
        yield "With one seed nothing can be said about whether a Δ is clear of zero."
    paired = {each.pairs: each.clear_beyond for each in found if each.pairs is not None}
    limits = [f"{limit:.2f} standard errors (n = {n})" for n, limit in sorted(paired.items()) if limit is not None]
    welch = [each.clear_beyond for each in found if each.pairs is None and each.clear_beyond is not None]
    if welch:
        between = f"{min(welch):.2f}" if len(welch) == 1 else f"{min(welch):.2f} to {max(welch):.2f}"
        limits.append(f"{between} (not paired)")
    if limits:
        yield f"A Δ is clear of zero at 95 % only beyond {listed(limits, last='or')}: Student's t, one comparison."
        shared = [line.entry.row.name for line in lines if _shares_teachers(line)]
        if shared:
            rows = listed(shared)
            yield f"One teacher for the students of all seeds in {rows}: errors are those of the students alone."


def _shares_teachers(line: Line) -> bool:
    """Whether a row's runs of several seeds have the same teachers."""
    taught = {tuple(teacher.run_id for teacher in spec.teachers) for spec in line.entry.specs}
    return len(line.entry.specs) > 1 and len(taught) == 1 and () not in taught


def _sampling_error(definition: Definition, lines: Sequence[Line]) -> Iterator[str]:
    """Of one run on these test examples; of examples with several labels it is by example, as they are independent."""
    measure = MEASURES[definition.measure]
    finished = [
        (line.entry.first.dataset, line.last.mean)
        for line in lines
        if line.last is not None and line.entry.first is not None
    ]
    sizes = {(data.num_test_labels, data.labelled, data.labels_each, data.test_size) for data, _ in finished}
    if len(sizes) != 1:
        return
    ((size, labelled, each, examples),) = sizes
    mean = statistics.fmean(mean for _, mean in finished)
    whole = size if measure.fewer else 100  # of the measure
    told = f"{mean:.1f}" if measure.fewer else f"{mean:.1f} %"
    of = f"{size} test {labelled}s"
    if each == 1:
        error: float | None = whole * math.sqrt(mean / whole * (1 - mean / whole) / size)
    else:
        of += f" in {examples} sequences, those of one not independent"
        known = [line.sampling_error for line in lines if line.sampling_error is not None]
        error = whole / 100 * statistics.fmean(known) if known else None
    if error is None:
        yield f"{of}: these results do not say their sampling error."
        return
    by = "a sampling error" if each == 1 else "a sampling error by sequence"
    shared = f"; a Δ is on the same test {labelled}s" if any(line.difference_last for line in lines) else ""
    yield (
        f"{of}: for one run {by} of ± {error:.2g} {measure.difference_unit} at the "
        f"mean of these rows, {told}, common to all seeds{shared}."
    )
