"""The figure of where a table's networks end, and on which paths: `ends.png`, `paths.png` and `similarity.csv`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from kdrun.escaping import csv_text
from kdrun.files import write_atomically
from kdrun.papers.abnar2020.looks import looks
from kdrun.papers.abnar2020.paths import Paths, check_epochs
from kdrun.papers.abnar2020.paths_plot import Network, Plane, draw_ends, draw_paths
from kdrun.spec.spec import Spec
from kdrun.tables import Definition, Entry
from kdrun.tables.compare import Line
from kdrun.tables.figures import Figure, Rendering

HEADER = ("row_a", "seed_a", "epoch_a", "row_b", "seed_b", "epoch_b", "similarity", "cka")


@dataclass(frozen=True)
class PathsFigure(Figure):
    """Where the runs of all seeds end, and the paths of those of the first seed.

    In both pictures networks are near each other whose penultimate layers relate the test images alike: 1 - similarity
    as distance, by classical MDS, on axes without a meaning. The paper has a plane for each path; here all share one,
    which shows their positions relative to each other, and each of them less faithfully.

    Attributes:
        rows: by name, with runs of their own; none is all such rows, without controls.
        epochs: after which a run of the first seed is looked at, beside its end; 0 is the network as initialised.
    """

    rows: tuple[str, ...] = ()
    epochs: tuple[int, ...] = (0, 1, 2, 4, 8, 16)

    files = ("paths.png", "ends.png", "similarity.csv")

    def __post_init__(self) -> None:
        check_epochs(self.epochs)

    def check(self, definition: Definition) -> Iterator[str]:
        known = {row.name: row for row in definition.rows}
        for name in self.rows:
            if name not in known:
                yield f"rows: {name} is no row"
            elif known[name].derived is not None or known[name].unavailable:
                yield f"rows: {name} has no runs of its own"

    def needs(self, entries: Sequence[Entry]) -> list[Paths]:
        return [found for found in (self.ends(entries), self.ways(entries)) if found is not None]

    def ends(self, entries: Sequence[Entry]) -> Paths | None:
        """Where the runs of all seeds end, row by row; None for fewer than two.

        Raises:
            ValueError: runs that cannot be compared, see `Paths`.
        """
        return _paths([entry.specs for entry in entries if self.shows(entry)], ())

    def ways(self, entries: Sequence[Entry]) -> Paths | None:
        """The paths of the runs of the first seed, row by row; None where these are less than two networks.

        Raises:
            ValueError: runs that cannot be compared, see `Paths`.
        """
        return _paths([entry.specs[:1] for entry in entries if self.shows(entry)], self.epochs)

    def shows(self, entry: Entry) -> bool:
        """Whether a row is drawn; one of the same runs as another stands for both."""
        if not self.rows:
            return bool(entry.specs) and entry.row.control is None
        return bool(entry.specs) and not {entry.row.name, *entry.same_as}.isdisjoint(self.rows)

    def draw(self, table: Rendering) -> None:
        lines = [line for line in table.lines if self.shows(line.entry)]
        entries = [line.entry for line in lines]
        of_rows = [(row, spec.seed) for row, entry in enumerate(entries) for spec in entry.specs]
        of_first = [(row, entry.specs[0].seed) for row, entry in enumerate(entries)]
        at_end = _plane(table, self.ends(entries), of_rows)
        on_way = _plane(table, self.ways(entries), of_first)
        if at_end is not None:
            draw_ends(table.directory / "ends.png", at_end, looks(lines), table.title)
        if on_way is not None:
            draw_paths(table.directory / "paths.png", on_way, lines, table.title)
        if found := [plane for plane in (at_end, on_way) if plane is not None]:
            write_atomically(table.directory / "similarity.csv", csv_text([HEADER, *_pairs(found, lines)]))


def _paths(rows: Sequence[Sequence[Spec]], epochs: tuple[int, ...]) -> Paths | None:
    specs = tuple(chain.from_iterable(rows))
    alone = len(specs) == 1 and not any(epoch < specs[0].epochs_trained for epoch in epochs)
    return Paths(specs, epochs) if specs and not alone else None


def _plane(table: Rendering, paths: Paths | None, runs: Sequence[tuple[int, int]]) -> Plane | None:
    """What was computed, with the row and seed of each of its runs; None where there is nothing."""
    record = None if paths is None else table.kept(paths)
    if record is None:
        return None
    networks = []
    for each, (x, y) in zip(record["networks"], record["coordinates"], strict=True):
        row, seed = runs[each["run"]]
        networks.append(Network(row, seed, each["epoch"], each["run_id"], (x, y)))
    return Plane(networks, record["similarity"], record["cka"], record["kept"])


def _pairs(planes: Sequence[Plane], lines: Sequence[Line]) -> Iterator[tuple[str | int | float, ...]]:
    """Each two networks once, the ends before the paths."""
    written: set[tuple[str, str]] = set()

    def named(network: Network) -> tuple[str, int, int]:
        return lines[network.row].entry.row.name, network.seed, network.epoch

    for plane in planes:
        for i, a in enumerate(plane.networks):
            for j, b in enumerate(plane.networks[:i]):
                if (b.run_id, a.run_id) not in written:
                    written.add((b.run_id, a.run_id))
                    yield (*named(b), *named(a), plane.similarity[j][i], plane.cka[j][i])
