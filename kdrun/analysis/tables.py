"""Tables as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdrun.analysis.aggregate import Group, Statistic
from kdrun.escaping import aligned, csv_text

COLUMNS: tuple[tuple[str, tuple[str, ...], float, int], ...] = (
    ("top-1 %", ("test", "last", "top1"), 1, 2),
    ("best on test %", ("test", "best", "top1"), 1, 2),
    ("top-1 % at best val", ("val", "selected", "test", "top1"), 1, 2),
    ("nll", ("test", "last", "nll"), 1, 3),
    ("ece", ("test", "last", "ece"), 1, 3),
    ("params M", ("student", "params"), 1e-6, 3),
    ("MACs M", ("student", "macs"), 1e-6, 2),
    ("train s", ("train", "seconds"), 1, 1),
)
"""Heading, where the number stands in `result.json`, factor, digits."""

CONSTANT = ("params M", "MACs M")

SHARES = ("ECE",)
"""First words of the figures of evaluations that are in [0, 1], not in percent."""


def markdown_table(groups: Sequence[Group]) -> str:
    """One row per group: mean ± sample deviation over its n runs; columns without any number are left out.

    Networks that were trained beside a group's students have a row each, after it.
    """
    groups = [each for group in groups for each in (group, *group.peers)]
    columns = [column for column in COLUMNS if any(group.statistic(*column[1]) for group in groups)]
    header = ["run", *(heading for heading, *_ in columns), "n"]
    rows = [
        [
            group.label,
            *(_cell(group.statistic(*path), heading, factor, digits) for heading, path, factor, digits in columns),
            f"{len(group.runs)}" + (f" ({group.missing} missing)" if group.missing else ""),
        ]
        for group in groups
    ]
    return aligned(header, rows)


def csv_table(groups: Sequence[Group]) -> str:
    """One line per group: its choices, then mean and deviation of every column; absent numbers are empty.

    Teachers and peers have no choices: those who read the lines by what was chosen get the students alone.
    """
    groups = [each for group in groups for each in (group, *group.peers)]
    keys = list(dict.fromkeys(key for group in groups for key in group.choices))
    names = [".".join(path) for _, path, _, _ in COLUMNS]
    statistics = [f"{name}.{part}" for name in names for part in ("mean", "std")]
    rows: list[list[object]] = [["run", *keys, "n", "missing", *statistics]]
    for group in groups:
        cells: list[float | str | None] = []
        for _, path, _, _ in COLUMNS:
            statistic = group.statistic(*path)
            cells += [None, None] if statistic is None else [statistic.mean, statistic.deviation]
        choices = [group.choices.get(key, "") for key in keys]
        rows.append([group.label, *choices, len(group.runs), group.missing, *cells])
    return csv_text(rows)


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


def _cell(statistic: Statistic | None, heading: str, factor: float, digits: int) -> str:
    if statistic is None:
        return ""
    deviation = None if statistic.deviation is None or heading in CONSTANT else statistic.deviation * factor
    return Statistic(statistic.mean * factor, deviation, statistic.n).text(digits)
