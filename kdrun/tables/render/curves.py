"""Pictures of a paper's table: learning curves, and a student against its teacher's accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kdrun.analysis.aggregate import Group, Statistic
from kdrun.analysis.plots import (
    draw_curve,
    figure,
    finish_curves,
    grid,
    legend_below,
    readable_range,
    set_heading,
    style,
)
from kdrun.escaping import legend_label
from kdrun.tables import Definition
from kdrun.tables.compare import Line, baseline_of
from kdrun.tables.figures import Figure, Rendering
from kdrun.tables.labels import method_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEGEND_INCHES = 0.2
"""Height of a line of a panel's legend."""

READABLE = 40.0
"""Points of top-1 between the ends of the curves of a panel."""


@dataclass(frozen=True)
class CurvesFigure(Figure):
    """Test top-1 after each epoch: a panel for each student, its baseline first.

    A row far below or above the others does not stretch the axis; the legend names it.

    Attributes:
        kinds: of the rows that are drawn beside the baselines; students without a finished run of the first of them
            have no panel. Without kinds all rows are drawn, but for controls.
    """

    kinds: tuple[str, ...] = ()

    files = ("curves.png",)

    def check(self, definition: Definition) -> Iterator[str]:
        known = {row.kind for row in definition.rows}
        yield from (f"kinds: {kind}: no row is of this kind" for kind in self.kinds if kind not in known)

    def draw(self, table: Rendering) -> None:
        panels = dict(self._by_student(table.lines))
        if not panels:
            return
        columns = min(3, len(panels))
        rows = math.ceil(len(panels) / columns)
        legends = rows * LEGEND_INCHES * max(len(groups) for groups in panels.values())
        path = table.directory / "curves.png"
        with figure(path, max(8, 0.6 + 4.4 * columns), 0.8 + 3.2 * rows + legends) as drawn:
            for axes, (student, groups) in zip(grid(drawn, len(panels), columns), panels.items(), strict=True):
                style(axes)
                _draw_curves(axes, groups)
                axes.set_title(student, fontsize="medium")
                axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.17))
            several = any(len(group.runs) > 1 for groups in panels.values() for group in groups)
            spread = "mean ± deviation over seeds, " if several else ""
            set_heading(drawn, f"{table.title}: {spread}last epoch in brackets")

    def _by_student(self, lines: Sequence[Line]) -> Iterator[tuple[str, list[Group]]]:
        """The groups of runs to draw, the baseline first."""
        rows = [line for line in lines if line.entry.row.control is None]
        for student in dict.fromkeys(line.student for line in rows):
            shown = [line for line in rows if line.student == student]
            if self.kinds:
                chosen = [line for kind in self.kinds for line in shown if line.entry.row.kind == kind]
                if not any(line.runs for line in chosen if line.entry.row.kind == self.kinds[0]):
                    continue
                baselines = [base for line in chosen if (base := baseline_of(line, lines)) is not None]
                shown = [*baselines[:1], *chosen]
            if any(line.runs for line in shown):
                yield student, [Group(method_label(line.entry), runs=[*line.runs.values()]) for line in shown]


def _draw_curves(axes: Axes, groups: Sequence[Group]) -> None:
    """The groups of a panel, the baseline first, on an axis for curves that end near each other."""
    curves = [list(group.curve("test", "top1").values()) for group in groups]
    ends = {i: curve[-1].mean for i, curve in enumerate(curves) if curve}
    values = list(ends.values())
    least, most = readable_range(max(values), values, always=values[:1] if 0 in ends else (), span=READABLE)
    finish_curves(axes, [groups[i] for i, end in ends.items() if least <= end <= most])
    low, high = axes.get_ylim()
    for i, end in ends.items():
        beyond = ", below the axis" if end < low else ", above the axis" if end > high else ""
        group = replace(groups[i], label=groups[i].label + beyond)
        draw_curve(axes, group, "-", "0.45" if i == 0 else f"C{i - 1}")


class TeacherAccuracyFigure(Figure):
    """A student's top-1 against its teacher's, both of the last epoch: a line for each teacher architecture."""

    files = ("teacher_accuracy.png",)

    def draw(self, table: Rendering) -> None:
        series: dict[tuple[str, str], list[tuple[Statistic, Statistic]]] = {}
        baselines: dict[str, Statistic] = {}
        for line in table.lines:
            if line.entry.row.control is not None or line.last is None or line.teacher is None:
                continue
            teacher = line.entry.teacher or line.student
            series.setdefault((line.student, teacher), []).append((line.teacher, line.last))
            base = baseline_of(line, table.lines)
            if base is not None and base.last is not None:
                baselines[line.student] = base.last
        if not series:
            return
        with figure(table.directory / "teacher_accuracy.png", 7, 4.6) as drawn:
            axes = drawn.add_subplot()
            style(axes)
            _draw_series(axes, series)
            _draw_baselines(axes, baselines)
            axes.set(xlabel="teacher's test top-1 (%)", ylabel="student's test top-1 (%)")
            set_heading(drawn, table.title)
            legend_below(drawn, columns=2)


def _draw_series(axes: Axes, series: Mapping[tuple[str, str], Sequence[tuple[Statistic, Statistic]]]) -> None:
    for (student, teacher), points in series.items():
        ordered = sorted(points, key=lambda point: point[0].mean)
        axes.errorbar(
            [taught_by.mean for taught_by, _ in ordered],
            [own.mean for _, own in ordered],
            xerr=[taught_by.deviation or 0 for taught_by, _ in ordered],
            yerr=[own.deviation or 0 for _, own in ordered],
            fmt="o-",
            markersize=5,
            capsize=2,
            label=legend_label(f"{student} ← {teacher}"),
        )


def _draw_baselines(axes: Axes, baselines: Mapping[str, Statistic]) -> None:
    for style_of_line, (student, top1) in zip(("--", ":", "-.") * len(baselines), baselines.items(), strict=False):
        label = legend_label(f"{student} baseline ({top1.text(1)})")
        axes.axhline(top1.mean, color="0.45", linestyle=style_of_line, label=label)
