"""What is computed for the figure `paths`: where the runs of a table end, and the ways of those of the first seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from kdrun.experiment.derived import Paths
from kdrun.spec.spec import Spec
from kdrun.tables.definition import Waypoints
from kdrun.tables.entry import Entry


def followed(entries: Sequence[Entry], waypoints: Waypoints) -> list[Entry]:
    """The rows that are drawn, of those that are asked for; a row of the same runs as another is that one."""
    wanted = set(waypoints.rows)
    return [
        entry
        for entry in entries
        if entry.specs and (wanted & {entry.row.name, *entry.same_as} if waypoints.rows else entry.row.control is None)
    ]


def ends(entries: Sequence[Entry], waypoints: Waypoints) -> Paths | None:
    """Where the runs of all seeds end, row by row; None for fewer than two.

    Raises:
        ValueError: runs that cannot be compared, see `Paths`.
    """
    return _paths([entry.specs for entry in followed(entries, waypoints)], ())


def ways(entries: Sequence[Entry], waypoints: Waypoints) -> Paths | None:
    """The ways of the runs of the first seed, row by row; None where these are less than two networks.

    Raises:
        ValueError: runs that cannot be compared, see `Paths`.
    """
    return _paths([entry.specs[:1] for entry in followed(entries, waypoints)], waypoints.epochs)


def both(entries: Sequence[Entry], waypoints: Waypoints) -> Iterator[Paths]:
    """`ends` and `ways`, where they are something."""
    yield from (found for each in (ends, ways) if (found := each(entries, waypoints)) is not None)


def _paths(rows: Sequence[Sequence[Spec]], epochs: tuple[int, ...]) -> Paths | None:
    specs = tuple(chain.from_iterable(rows))
    alone = len(specs) == 1 and not any(epoch < specs[0].epochs_trained for epoch in epochs)
    return Paths(specs, epochs) if specs and not alone else None
