"""Where the networks of a table end, and on which way: pictures of how alike they are (Abnar et al. 2020)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.analysis.comparison import Line
from kdrun.analysis.paper_looks import Look, looks
from kdrun.analysis.plots import figure, set_heading
from kdrun.experiment.derived import Derived, Paths
from kdrun.files import write_atomically
from kdrun.tables import Waypoints
from kdrun.tables.waypoints import ends, followed, ways

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILES = ("ends.png", "paths.png", "similarity.csv")

HEADER = ("row_a", "seed_a", "epoch_a", "row_b", "seed_b", "epoch_b", "similarity", "cka")

PANEL, PLANE, LEGEND_LINE, AROUND = 4.6, 5.6, 0.2, 0.8
"""Inches: the side of a panel of paths, and of the plane of ends."""

CLEAR = 0.035
"""Of the width of a plane: an epoch that is nearer to a neighbour's is not written out."""

MARGIN = 0.07
"""Of the plane, around its points."""

OTHERS = "0.82"
"""Grey of the paths of other students."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Network:
    """One network: the row and the seed of its run, its epoch, the run_id, and where it is drawn."""

    row: int
    seed: int
    epoch: int
    run_id: str
    place: Point


@dataclass(frozen=True)
class Plane:
    """What was computed of networks.

    Attributes:
        networks: row by row, seed by seed, epoch by epoch.
        similarity: between each two.
        cka: likewise.
        kept: the share of the variance that the plane keeps.
    """

    networks: Sequence[Network]
    similarity: Sequence[Sequence[float]]
    cka: Sequence[Sequence[float]]
    kept: float

    def of_row(self, row: int) -> list[Network]:
        return [network for network in self.networks if network.row == row]


def paths(
    directory: Path,
    lines: Sequence[Line],
    waypoints: Waypoints,
    kept: Callable[[Derived], Mapping[str, Any] | None],
    *,
    title: str,
) -> None:
    """Writes `ends.png`, `paths.png` and `similarity.csv`; what was not computed is not there afterwards.

    In both pictures networks lie near each other whose penultimate layers relate the test images alike: 1 - similarity
    as distance, by classical MDS, on axes without a meaning. The paper has a plane for each path; here all share one,
    which says how they lie to one another and shows each of them less faithfully.

    Args:
        directory: of the table.
        lines: its rows.
        waypoints: which of them are drawn.
        kept: what was computed of finished runs, or None.
        title: of the pictures.
    """
    for name in FILES:
        (directory / name).unlink(missing_ok=True)
    drawn = [line for line in lines if line.entry in followed([line.entry], waypoints)]
    entries = [line.entry for line in drawn]
    of_rows = [(row, spec.seed) for row, entry in enumerate(entries) for spec in entry.specs]
    of_first = [(row, entry.specs[0].seed) for row, entry in enumerate(entries)]
    at_end = _plane(ends(entries, waypoints), of_rows, kept)
    on_way = _plane(ways(entries, waypoints), of_first, kept)
    if at_end is not None:
        _draw_ends(directory / "ends.png", at_end, looks(drawn), title)
    if on_way is not None:
        _draw_paths(directory / "paths.png", on_way, drawn, title)
    if found := [plane for plane in (at_end, on_way) if plane is not None]:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([HEADER, *_pairs(found, drawn)])
        write_atomically(directory / "similarity.csv", text.getvalue())


def _plane(
    asked: Paths | None, runs: Sequence[tuple[int, int]], kept: Callable[[Derived], Mapping[str, Any] | None]
) -> Plane | None:
    """What is kept, with the row and seed of each of its runs; None where there is nothing."""
    record = None if asked is None else kept(asked)
    if record is None:
        return None
    networks = []
    for each, (x, y) in zip(record["networks"], record["coordinates"], strict=True):
        row, seed = runs[each["run"]]
        networks.append(Network(row, seed, each["epoch"], each["run_id"], (x, y)))
    return Plane(networks, record["similarity"], record["cka"], record["kept"])


def _pairs(planes: Sequence[Plane], lines: Sequence[Line]) -> Iterator[tuple[str | int | float, ...]]:
    """Each two networks once, the ends before the ways."""
    told: set[tuple[str, str]] = set()

    def named(network: Network) -> tuple[str, int, int]:
        return lines[network.row].entry.row.name, network.seed, network.epoch

    for plane in planes:
        for i, a in enumerate(plane.networks):
            for j, b in enumerate(plane.networks[:i]):
                if (b.run_id, a.run_id) not in told:
                    told.add((b.run_id, a.run_id))
                    yield (*named(b), *named(a), plane.similarity[j][i], plane.cka[j][i])


def _draw_ends(path: Path, plane: Plane, seen: Sequence[Look], title: str) -> None:
    """Each network as a marker, tied to the middle of its row's."""
    with figure(path, AROUND + PLANE, AROUND + PLANE * 0.85 + _legend_height(seen, 2)) as drawn:
        axes = drawn.add_subplot()
        _blank(axes, plane)
        for row, look in enumerate(seen):
            places = [network.place for network in plane.of_row(row)]
            middle = tuple(sum(values) / len(places) for values in zip(*places, strict=True))
            for x, y in places:
                axes.plot([x, middle[0]], [y, middle[1]], "-", color=look.colour, linewidth=0.7, alpha=0.5, zorder=2)
                axes.plot(x, y, look.marker, color=look.colour, markersize=7.5, markeredgecolor="white", zorder=3)
        what = "where the runs of all seeds end"
        set_heading(drawn, f"{title}: {what}, {_of_variance(plane)}")
        handles = [look.handle() for look in seen]
        for handle in handles:
            handle.set_linestyle("")
        drawn.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize="small")


def _draw_paths(path: Path, plane: Plane, lines: Sequence[Line], title: str) -> None:
    """A panel for each student with the paths of its rows, those of the others grey; all on the same plane."""
    students = list(dict.fromkeys(line.student for line in lines))
    seen = looks(lines)
    columns = min(3, len(students))
    rows = math.ceil(len(students) / columns)
    legend_columns = columns + 1
    height = AROUND + 0.85 * PANEL * rows + _legend_height(seen, legend_columns)
    with figure(path, 0.3 + PANEL * columns, height) as drawn:
        panels = drawn.subplots(rows, columns, squeeze=False).flatten().tolist()
        for axes, student in zip(panels, students, strict=False):
            _blank(axes, plane)
            axes.set_title(student, fontsize="medium")
            own = [row for row, line in enumerate(lines) if line.student == student]
            for row in range(len(lines)):
                if row not in own:
                    places = [network.place for network in plane.of_row(row)]
                    axes.plot(*zip(*places, strict=True), color=OTHERS, linewidth=1, zorder=1)
                    axes.plot(*places[-1], seen[row].marker, color=OTHERS, markersize=6, zorder=1)
            for row in own:
                _draw_path(axes, [network.place for network in plane.of_row(row)], seen[row])
            _write_epochs(axes, [(plane.of_row(row), seen[row]) for row in own])
        for axes in panels[len(students) :]:
            axes.set_axis_off()
        seed = plane.networks[0].seed
        what = f"the paths of seed {seed} from initialisation (ring) to end (large), epochs at the points"
        set_heading(drawn, f"{title}: {what}; one plane for all, {_of_variance(plane)}")
        drawn.legend(
            handles=[look.handle() for look in seen],
            loc="outside lower center",
            ncols=legend_columns,
            frameon=False,
            fontsize="small",
            handlelength=3.5,
        )


def _draw_path(axes: Axes, places: Sequence[Point], look: Look) -> None:
    first, *between, last = places
    axes.plot(*zip(*places, strict=True), look.line, color=look.colour, linewidth=1.3, zorder=2)
    for place in between:
        axes.plot(*place, look.marker, color=look.colour, markersize=3.5, zorder=3)
    axes.plot(*first, "o", color=look.colour, markerfacecolor="white", markersize=8, markeredgewidth=1.4, zorder=3)
    axes.plot(*last, look.marker, color=look.colour, markersize=9, markeredgecolor="white", zorder=4)


def _write_epochs(axes: Axes, ways: Sequence[tuple[Sequence[Network], Look]]) -> None:
    """The epochs beside their points, the ends first; those that another one leaves no room for are left out."""
    low, high = axes.get_xlim()
    taken: list[Point] = []
    ordered = [(network, look) for networks, look in ways for network in (networks[-1], networks[0])]
    ordered += [(network, look) for networks, look in ways for network in networks[1:-1]]
    for network, look in ordered:
        if all(math.dist(network.place, other) >= CLEAR * (high - low) for other in taken):
            taken.append(network.place)
            axes.annotate(
                str(network.epoch),
                network.place,
                xytext=(5, 5),
                textcoords="offset points",
                color=look.colour,
                fontsize="x-small",
                zorder=5,
            )


def _blank(axes: Axes, plane: Plane) -> None:
    """Axes that show the whole plane, as long one way as the other, without figures: they have no meaning."""
    xs, ys = zip(*(network.place for network in plane.networks), strict=True)
    margin = MARGIN * max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
    axes.set_xlim(min(xs) - margin, max(xs) + margin)
    axes.set_ylim(min(ys) - margin, max(ys) + margin)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("0.8")


def _of_variance(plane: Plane) -> str:
    return f"{100 * plane.kept:.0f} % of the variance"


def _legend_height(seen: Sequence[Look], columns: int) -> float:
    return LEGEND_LINE * math.ceil(len(seen) / columns)
