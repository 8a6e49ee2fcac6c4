"""Differences of two sets of numbers with their standard errors: paired by seed, or of two means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdrun.analysis.aggregate import Statistic


@dataclass(frozen=True)
class Difference:
    """A mean difference with its standard error.

    Attributes:
        mean: of the row less the mean of the other.
        standard_error: of it; None where the seeds are too few.
        degrees: of freedom of the standard error; None without one.
        pairs: how many seeds are paired; None where the rows are not paired by seed.
    """

    mean: float
    standard_error: float | None
    degrees: float | None
    pairs: int | None

    @property
    def clear_beyond(self) -> float | None:
        """How many standard errors from zero it must be for 95 % (two-sided, one comparison); None without one."""
        return None if self.degrees is None else student_t(self.degrees)


def student_t(degrees: float, confidence: float = 0.95) -> float:
    """The two-sided quantile of Student's t: |t| stays below it with this probability.

    Args:
        degrees: of freedom, more than 0.
        confidence: in (0, 1).
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + confidence) / 2))


def paired(values: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """Value less the other of the same seed; None where no seed has both."""
    found = [value - others[i] for i, value in values.items() if i in others]
    if not found:
        return None
    each = Statistic.of(found)
    return Difference(each.mean, each.standard_error, each.n - 1 if each.n > 1 else None, each.n)


def unpaired(values: Sequence[float], others: Sequence[float]) -> Difference | None:
    """Difference of two means of independent numbers, with Welch's standard error and degrees of freedom.

    Welch 1947: SE^2 = a + b with a = s_1^2 / n_1 and b = s_2^2 / n_2; degrees (a + b)^2 / (a^2/(n_1 - 1) +
    b^2/(n_2 - 1)). None where one has no number; no standard error where one has fewer than two.
    """
    if not values or not others:
        return None
    mean = statistics.fmean(values) - statistics.fmean(others)
    if min(len(values), len(others)) < 2:
        return Difference(mean, None, None, None)
    parts = [(statistics.variance(numbers) / len(numbers), len(numbers) - 1) for numbers in (values, others)]
    total = sum(part for part, _ in parts)
    denominator = sum(part * part / degrees for part, degrees in parts)
    degrees = total * total / denominator if denominator else float(sum(degrees for _, degrees in parts))
    return Difference(mean, math.sqrt(total), degrees, None)


def difference(values: Mapping[int, float], others: Mapping[int, float], *, same_seeds: bool) -> Difference | None:
    """Of two rows whose numbers stand by position of the seed."""
    return paired(values, others) if same_seeds else unpaired([*values.values()], [*others.values()])
