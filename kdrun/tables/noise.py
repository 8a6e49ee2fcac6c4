"""The sentences of a paper's table on its errors: which differences can be noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from kdrun.tables import Definition
from kdrun.tables.compare import Line
from kdrun.tables.contrasts import Contrast
from kdrun.tables.labels import listed
from kdrun.tables.measure import MEASURES


def what_it_can_show(definition: Definition, lines: Sequence[Line], contrasts: Sequence[Contrast]) -> Iterator[str]:
    """How far a difference can be noise: of the test examples, and of the seeds."""
    yield from _sampling_error(definition, lines)
    found = [line.difference_last for line in lines if line.difference_last is not None]
    found += [each for contrast in contrasts for each in contrast.differences.values()]
    if found and all(each.degrees is None for each in found):
        yield "One seed: whether a Δ is clear of zero cannot be determined."
    unpaired = [line.entry.row.name for line in lines if line.difference_last and line.difference_last.pairs is None]
    if unpaired:
        yield f"Not paired by seed, with Welch's standard error: {listed(unpaired)}."
    limits = {(each.pairs, each.clear_beyond) for each in found if each.clear_beyond is not None}
    paired = [f"{limit:.2f} standard errors (n = {n})" for n, limit in sorted((n, x) for n, x in limits if n)]
    welch = sorted({f"{limit:.2f}" for n, limit in limits if n is None}, key=float)
    if welch:
        paired.append(f"{' to '.join(dict.fromkeys((welch[0], welch[-1])))} (not paired)")
    if paired:
        yield f"A Δ is clear of zero at 95 % only beyond {listed(paired, last='or')}: Student's t, one comparison."
        shared = [line.entry.row.name for line in lines if _shares_teachers(line)]
        if shared:
            yield f"One teacher for all seeds, so errors do not cover another teacher: {listed(shared)}."


def _shares_teachers(line: Line) -> bool:
    """Whether a row's runs of several seeds have the same teachers."""
    taught = {tuple(teacher.run_id for teacher in spec.teachers) for spec in line.entry.specs}
    return len(line.entry.specs) > 1 and len(taught) == 1 and () not in taught


def _sampling_error(definition: Definition, lines: Sequence[Line]) -> Iterator[str]:
    """Of one run on these test examples; of examples with several labels it is by example, as they are independent."""
    measure = MEASURES[definition.measure]
    finished = [(line.entry.first.dataset, line.last.mean) for line in lines if line.last and line.entry.first]
    sizes = {(data.num_test_labels, data.labelled, data.labels_each, data.test_size) for data, _ in finished}
    if len(sizes) != 1:
        return
    ((size, labelled, each, examples),) = sizes
    mean = statistics.fmean(mean for _, mean in finished)
    whole = size if measure.fewer else 100  # of the measure
    of = f"{size} test {labelled}s"
    if each == 1:
        error: float | None = whole * math.sqrt(mean / whole * (1 - mean / whole) / size)
    else:
        of += f" in {examples} sequences, the independent units"
        known = [line.sampling_error for line in lines if line.sampling_error is not None]
        error = whole / 100 * statistics.fmean(known) if known else None
    if error is None:
        yield f"{of}: these results have no sampling error."
    else:
        at = f"{mean:.1f}{'' if measure.fewer else ' %'}"
        yield f"{of}: sampling error of one run ± {error:.2g} {measure.difference_unit} at the mean of the rows, {at}."
