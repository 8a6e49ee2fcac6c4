"""Figures of evaluations of finished runs, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdrun.analysis.aggregate import Statistic
from kdrun.analysis.tables import aligned

SHARES = ("ECE",)
"""First words of the figures that are in [0, 1], not in percent."""


def evaluation_table(found: Mapping[tuple[str, str], Sequence[Mapping[str, float]]]) -> str:
    """A row for each run and evaluation: mean ± sample deviation over its n seeds.

    Args:
        found: the figures of each seed, by name; by run and evaluation.
    """
    names = list(dict.fromkeys(name for members in found.values() for figures in members for name in figures))
    rows = []
    for (label, on), members in found.items():
        cells = [
            Statistic.of([figures[name] for figures in members]).text(digits_of(name)) if name in members[0] else ""
            for name in names
        ]
        rows.append([label, on, *cells, str(len(members))])
    return aligned(["run", "evaluation", *names, "n"], rows, left=2)


def digits_of(name: str) -> int:
    """Decimals of a figure, by its name, with or without its evaluation's name before it."""
    return 3 if any(word in name for word in SHARES) else 2
