"""Pictures of a paper's table: every row as a dot, learning curves, and a student against its teacher's accuracy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.analysis.aggregate import Group, Statistic
from kdrun.analysis.comparison import Line, baseline_of
from kdrun.analysis.paper_text import method_label, teacher_of
from kdrun.analysis.plots import draw_curve, figure, finish_curves, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW_INCHES = 0.28
GAP = 0.7
"""Between two students, in rows."""

TALL = 30
"""Beyond so many rows the figures of the axes stand above, too."""

OURS, CONTROL, PUBLISHED = "C0", "0.55", "C1"
WITH_CURVES = ("kd", "lsr")
"""Kinds that are drawn beside Tf-KD, where they are few."""


def accuracy_dots(path: Path, lines: Sequence[Line], *, published: bool, title: str) -> None:
    """A line for each row that has a number, by student: its top-1 on the left, its Δ on the right; controls grey.

    Ours with bars of one deviation on the left and of one standard error on the right.
    """
    lines = [line for line in lines if line.last is not None or (published and _is_published(line))]
    if not lines:
        path.unlink(missing_ok=True)
        return
    places = _places(lines)
    height = 1.5 + ROW_INCHES * (max(places) + 1)
    with figure(path, 9.5, height) as drawn:
        left, right = drawn.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for axes in (left, right):
            style(axes)
        _draw_accuracies(left, lines, places, published=published)
        _draw_differences(right, lines, places, published=published)
        left.set_yticks(places, [f"{line.entry.row.student}  {method_label(line.entry)}" for line in lines])
        left.set_ylim(max(places) + 0.6, -0.6)
        left.tick_params(axis="y", labelsize="small", length=0)
        right.tick_params(axis="y", length=0)
        if len(lines) > TALL:
            for axes in (left, right):
                axes.tick_params(axis="x", top=True, labeltop=True)
        for label, line in zip(left.get_yticklabels(), lines, strict=True):
            label.set_color("0.4" if line.entry.row.control else "0")
        drawn.suptitle(title, fontsize="medium")
        _legend(drawn, lines, published=published)


def _draw_accuracies(axes: Axes, lines: Sequence[Line], places: Sequence[float], *, published: bool) -> None:
    printed = {i: line.entry.row.published for i, line in enumerate(lines)} if published else {}
    bars = [(line.last.mean, line.last.deviation or 0.0) for line in lines if line.last is not None]
    values = [*(mean for mean, _ in bars), *(figures.top1 for figures in printed.values() if figures.top1 is not None)]
    best = [line.best.mean for line in lines if line.best is not None]
    _set_limits(axes, values, [*_ends(bars), *best], slack=15)
    for i, (line, place) in enumerate(zip(lines, places, strict=True)):
        figures = printed.get(i)
        if figures is not None and figures.top1 is not None:
            _mark_published(axes, figures.top1, figures.std, place)
        if line.best is not None:
            axes.plot(line.best.mean, place, "o", markersize=4, markerfacecolor="white", color=_colour(line), zorder=3)
        if line.last is not None:
            _mark(axes, line.last.mean, line.last.deviation, place, _colour(line))
    axes.set_xlabel("test top-1 (%)")


def _draw_differences(axes: Axes, lines: Sequence[Line], places: Sequence[float], *, published: bool) -> None:
    differences = [line.difference_last for line in lines if line.difference_last is not None]
    bars = [(difference.mean, difference.standard_error or 0.0) for difference in differences]
    printed = [line.difference_published for line in lines if published and line.difference_published is not None]
    _set_limits(axes, [0.0, *(mean for mean, _ in bars), *printed], _ends(bars), slack=4)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.3), max(high, 0.3))
    axes.axvline(0, color="0.3", linewidth=1, zorder=1)
    for line, place in zip(lines, places, strict=True):
        if published and line.difference_published is not None:
            _mark_published(axes, line.difference_published, None, place)
        if line.difference_last is not None:
            _mark(axes, line.difference_last.mean, line.difference_last.standard_error, place, _colour(line))
    axes.set_xlabel("Δ to the baseline (points)")


def _mark_published(axes: Axes, value: float, error: float | None, place: float) -> None:
    """A published figure: a little below ours, so that both are seen where they agree."""
    _mark(axes, value, error, place + 0.16, PUBLISHED, marker="D")


def _mark(axes: Axes, value: float, error: float | None, place: float, colour: str, marker: str = "o") -> None:
    """A figure with its bar; beyond the axis an arrow at the edge, with the number."""
    low, high = axes.get_xlim()
    if low <= value <= high:
        axes.errorbar(value, place, xerr=error, fmt=marker, color=colour, markersize=4.7, capsize=2, zorder=4)
        return
    below = value < low
    edge, arrow = (low, "<") if below else (high, ">")
    axes.plot(edge, place, arrow, color=colour, markersize=6, clip_on=False, zorder=4)
    axes.annotate(
        f"{value:.1f}",
        (edge, place),
        xytext=(7 if below else -7, 0),
        textcoords="offset points",
        ha="left" if below else "right",
        va="center",
        color=colour,
        fontsize="x-small",
    )


def _legend(drawn: Figure, lines: Sequence[Line], *, published: bool) -> None:
    from matplotlib.lines import Line2D

    def mark(marker: str, colour: str, label: str, face: str | None = None) -> Line2D:
        return Line2D([], [], marker=marker, linestyle="", color=colour, markerfacecolor=face or colour, label=label)

    handles = []
    if any(line.last is not None for line in lines):
        handles.append(mark("o", OURS, "ours, last epoch (left ± deviation, right ± standard error)"))
        handles.append(mark("o", OURS, "best on test", face="white"))
    if any(line.last is not None and line.entry.row.control for line in lines):
        handles.append(mark("o", CONTROL, "control"))
    if published and any(_is_published(line) for line in lines):
        handles.append(mark("D", PUBLISHED, "published"))
    drawn.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize="small")


def curves(path: Path, lines: Sequence[Line], *, title: str) -> None:
    """Test top-1 after each epoch: a panel for each student of a Tf-KD row, its baseline beside it."""
    panels = {student: groups for student, groups in _curves_by_student(lines) if groups}
    if not panels:
        path.unlink(missing_ok=True)
        return
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with figure(path, 0.6 + 4.4 * columns, 0.5 + 3.4 * rows) as drawn:
        grid = drawn.subplots(rows, columns, squeeze=False).flatten().tolist()
        for axes, (student, groups) in zip(grid, panels.items(), strict=False):
            style(axes)
            for i, group in enumerate(groups):
                draw_curve(axes, group, "-", "0.45" if i == 0 else f"C{i - 1}")
            finish_curves(axes, groups)
            axes.set_title(student, fontsize="medium")
            axes.legend(frameon=False, fontsize="x-small", loc="lower right")
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        drawn.suptitle(f"{title}: mean ± deviation over seeds, last epoch in brackets", fontsize="medium")


def _curves_by_student(lines: Sequence[Line]) -> Iterator[tuple[str, list[Group]]]:
    """By student, the baseline first; nothing for a student without a finished Tf-KD run."""
    rows = [line for line in lines if line.entry.row.control is None]
    for student in dict.fromkeys(line.entry.row.student for line in rows):
        own = [line for line in rows if line.entry.row.student == student]
        teacher_free = [line for line in own if line.entry.row.kind.startswith("tfkd_")]
        others = [line for line in own if line.entry.row.kind in WITH_CURVES]
        baselines = [base for line in teacher_free if (base := baseline_of(line, lines)) is not None]
        shown = [*baselines[:1], *teacher_free, *(others if len(others) <= 4 else [])]
        groups = [Group(method_label(line.entry), runs=list(line.runs.values())) for line in shown]
        drawable = any(line.runs for line in teacher_free)
        yield student, groups if drawable else []


def teacher_accuracy(path: Path, lines: Sequence[Line], *, title: str) -> None:
    """A student's top-1 against its teacher's, both of the last epoch: a line for each teacher architecture."""
    series: dict[tuple[str, str], list[tuple[Statistic, Statistic]]] = {}
    baselines: dict[str, Statistic] = {}
    for line in lines:
        if line.entry.row.control is not None or line.last is None or line.teacher is None:
            continue
        student = line.entry.row.student
        teacher = teacher_of(line.entry).partition("@")[0] or student
        series.setdefault((student, teacher), []).append((line.teacher, line.last))
        base = baseline_of(line, lines)
        if base is not None and base.last is not None:
            baselines[student] = base.last
    if not series:
        path.unlink(missing_ok=True)
        return
    with figure(path, 7, 4.6) as drawn:
        axes = drawn.add_subplot()
        style(axes)
        _draw_series(axes, series)
        _draw_baselines(axes, baselines)
        axes.set(xlabel="teacher's test top-1 (%)", ylabel="student's test top-1 (%)", title=title)
        drawn.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")


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
            label=f"{student} ← {teacher}",
        )


def _draw_baselines(axes: Axes, baselines: Mapping[str, Statistic]) -> None:
    for style_of_line, (student, top1) in zip(("--", ":", "-.") * len(baselines), baselines.items(), strict=False):
        axes.axhline(top1.mean, color="0.45", linestyle=style_of_line, label=f"{student} baseline ({top1.text(1)})")


def _is_published(line: Line) -> bool:
    return line.entry.row.published.top1 is not None or line.difference_published is not None


def _colour(line: Line) -> str:
    return CONTROL if line.entry.row.control else OURS


def _places(lines: list[Line]) -> list[float]:
    """Sorts the lines by student, in place, and says where each one stands: a gap between two students."""
    students = list(dict.fromkeys(line.entry.row.student for line in lines))
    lines.sort(key=lambda line: students.index(line.entry.row.student))
    return [i + GAP * students.index(line.entry.row.student) for i, line in enumerate(lines)]


def _ends(bars: Sequence[tuple[float, float]]) -> list[float]:
    """Both ends of each mean's bar."""
    return [end for mean, error in bars for end in (mean - error, mean + error)]


def _set_limits(axes: Axes, values: Sequence[float], ends: Sequence[float], *, slack: float) -> None:
    """An axis for these values and what surrounds them; what lies far from most values does not stretch it.

    Far is more than six times the median distance from the median, and more than `slack`.
    """
    median = statistics.median(values)
    reach = max(6 * statistics.median(abs(value - median) for value in values), slack)
    near = [value for value in (*values, *ends) if abs(value - median) <= reach]
    margin = 0.3 + 0.05 * (max(near) - min(near))
    axes.set_xlim(min(near) - margin, max(near) + margin)
