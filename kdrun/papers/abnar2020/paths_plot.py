"""Networks on a plane: where they end, and their paths there (Abnar et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.analysis.plots import figure, grid, legend_below, set_heading
from kdrun.papers.abnar2020.looks import Look, looks
from kdrun.tables.compare import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL, PLANE, PANEL_TITLE, LEGEND_LINE, AROUND = 4.0, 6.5, 0.25, 0.2, 0.8
"""Inches: the width of a panel of paths, and of the plane of ends."""

PANEL_RATIO = 0.85
"""Height of a panel of paths to its width."""

CLEAR = 0.035
"""Of the width of a plane: an epoch that is nearer to a neighbour's is not written out."""

MARGIN = 0.07
"""Of the plane, around its points."""

OTHERS = "0.8"
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


def draw_ends(path: Path, plane: Plane, seen: Sequence[Look], title: str) -> None:
    """Each network as a marker, tied to the middle of its row's."""
    places = [network.place for network in plane.networks]
    ratio = _ratio(places)
    with figure(path, AROUND + PLANE, AROUND + ratio * PLANE + _legend_height(seen, 2)) as drawn:
        axes = drawn.add_subplot()
        _show(axes, places, ratio)
        for row, look in enumerate(seen):
            own = [network.place for network in plane.of_row(row)]
            middle = tuple(sum(values) / len(own) for values in zip(*own, strict=True))
            for x, y in own:
                axes.plot([x, middle[0]], [y, middle[1]], "-", color=look.colour, linewidth=0.7, alpha=0.5, zorder=2)
                axes.plot(x, y, look.marker, color=look.colour, markersize=7.5, markeredgecolor="white", zorder=3)
        set_heading(drawn, f"{title}: where the runs of all seeds end, {_of_variance(plane)}")
        legend_below(drawn, [replace(look, line="").handle() for look in seen], columns=2)


def draw_paths(path: Path, plane: Plane, lines: Sequence[Line], title: str) -> None:
    """All paths, and beside them each student's from the second network on, enlarged: starts are far away."""
    students = list(dict.fromkeys(line.student for line in lines))
    ways = [(plane.of_row(row), look) for row, look in enumerate(looks(lines))]
    columns = min(3, 1 + len(students))
    rows = math.ceil((1 + len(students)) / columns)
    height = AROUND + (PANEL_RATIO * PANEL + PANEL_TITLE) * rows + _legend_height(ways, columns)
    with figure(path, AROUND / 2 + PANEL * columns, height) as drawn:
        whole, *panels = grid(drawn, 1 + len(students), columns)
        _show(whole, [network.place for network in plane.networks], PANEL_RATIO)
        whole.set_title("all", fontsize="medium")
        for networks, look in ways:
            _draw_way(whole, networks, look, size=0.8)
        for axes, student in zip(panels, students, strict=True):
            own = [way for way, line in zip(ways, lines, strict=True) if line.student == student]
            _show(axes, [network.place for networks, _ in own for network in networks[1:] or networks], PANEL_RATIO)
            axes.set_title(f"{student}, enlarged", fontsize="medium")
            for networks, look in ways:
                _draw_way(axes, networks, look, colour=None if (networks, look) in own else OTHERS)
            _write_epochs(axes, own)
        what = f"the paths of seed {plane.networks[0].seed} from the start (ring) to the end (large) with their epochs"
        set_heading(drawn, f"{title}: {what}; one plane for all, {_of_variance(plane)}")
        legend_below(drawn, [look.handle() for _, look in ways], columns, handlelength=3.5)


def _draw_way(
    axes: Axes, networks: Sequence[Network], look: Look, *, size: float = 1.0, colour: str | None = None
) -> None:
    """One path; with a `colour` it is one of the background."""
    level = 2 if colour is None else 1
    colour = colour or look.colour
    places = [network.place for network in networks]
    axes.plot(*zip(*places, strict=True), look.line, color=colour, linewidth=1.3 * size, zorder=level)
    for place in places[1:-1]:
        axes.plot(*place, look.marker, color=colour, markersize=3.5 * size, zorder=level + 0.1)
    if len(places) > 1:
        ring: dict[str, Any] = {"markerfacecolor": "white", "markersize": 8 * size, "markeredgewidth": 1.4 * size}
        axes.plot(*places[0], "o", color=colour, zorder=level + 0.2, **ring)
    axes.plot(*places[-1], look.marker, color=colour, markersize=8 * size, markeredgecolor="white", zorder=level + 0.3)


def _write_epochs(axes: Axes, ways: Sequence[tuple[Sequence[Network], Look]]) -> None:
    """The epochs beside the points that are seen, the ends first; where another one leaves no room there is none."""
    from matplotlib.patheffects import withStroke

    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    taken: list[Point] = []
    ordered = [(networks[-1], look) for networks, look in ways]
    ordered += [(network, look) for networks, look in ways for network in networks[:-1]]
    for network, look in ordered:
        x, y = network.place
        if not (left < x < right and low < y < high):
            continue
        if all(math.dist(network.place, other) >= CLEAR * (right - left) for other in taken):
            taken.append(network.place)
            axes.annotate(
                str(network.epoch),
                network.place,
                xytext=(4, 4),
                textcoords="offset points",
                color=look.colour,
                fontsize="small",
                path_effects=[withStroke(linewidth=2, foreground="white")],
                zorder=5,
            )


def _ratio(places: Sequence[Point]) -> float:
    """Height of a picture of these points to its width, from 0.4 to 1."""
    width, height = (max(values) - min(values) for values in zip(*places, strict=True))
    return min(1.0, max(0.4, height / width if width else 1.0))


def _show(axes: Axes, places: Sequence[Point], ratio: float) -> None:
    """Axes around these points, as long one way as the other, without figures: they have no meaning.

    Args:
        axes: empty ones.
        places: at least one.
        ratio: height to width.
    """
    xs, ys = zip(*places, strict=True)
    width = max(max(xs) - min(xs), (max(ys) - min(ys)) / ratio) or 1.0
    half = width * (0.5 + MARGIN)
    x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    axes.set(xlim=(x - half, x + half), ylim=(y - ratio * half, y + ratio * half), xticks=[], yticks=[])
    axes.set_box_aspect(ratio)
    axes.spines[:].set_color("0.8")


def _of_variance(plane: Plane) -> str:
    return f"{100 * plane.kept:.0f} % of the variance"


def _legend_height(rows: Sequence[object], columns: int) -> float:
    return LEGEND_LINE * math.ceil(len(rows) / columns)
