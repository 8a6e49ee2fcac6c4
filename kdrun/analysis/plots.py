"""Pictures: learning curves, and accuracy against a swept option."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.analysis.aggregate import Group, Statistic
from kdrun.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LETTERS_AN_INCH = 12
"""Of a heading, in its size."""


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure, sizes in inches, that is written as PNG in the end; no display, no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    yield drawn
    content = io.BytesIO()
    drawn.savefig(content, format="png", dpi=150)
    write_atomically(path, content.getvalue())


def style(axes: Axes) -> None:
    """How all axes look."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def set_heading(drawn: Figure, text: str) -> None:
    """A heading over the whole figure, on as many lines as its width asks for."""
    characters = int(LETTERS_AN_INCH * drawn.get_figwidth())
    drawn.suptitle(textwrap.fill(text, characters), fontsize="medium")


def readable_range(
    start: float, values: Sequence[float], *, always: Sequence[float] = (), minor: Sequence[float] = (), span: float
) -> tuple[float, float]:
    """The ends of an axis that is not stretched by what lies far out.

    From the start on, each next nearest value is within if the axis then spans at most `span`, or half as much again
    as before.

    Args:
        start: a value that is not far out.
        values: those that matter.
        always: values that are within however far out they are.
        minor: values that come last.
        span: how much the axis may always span.
    """
    low = high = start

    def take(candidates: Sequence[float]) -> None:
        nonlocal low, high
        middle = (low + high) / 2
        for value in sorted(candidates, key=lambda value: abs(value - middle)):
            ends = min(low, value), max(high, value)
            if ends[1] - ends[0] <= max(span, 1.5 * (high - low)):
                low, high = ends

    take([*values, *always])
    low, high = min([low, *always]), max([high, *always])
    take(values)
    take(minor)
    return low, high


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Axes]:
    """A figure of one pair of axes."""
    with figure(path, width, height) as drawn:
        axes = drawn.add_subplot()
        style(axes)
        yield axes


def learning_curves(path: Path, teachers: Sequence[Group], students: Sequence[Group], title: str) -> None:
    """Test top-1 after each epoch: the mean over seeds, a band of one deviation; teachers dashed."""
    with _figure(path, 7, 4.2) as axes:
        dashes = itertools.cycle(("--", ":", "-."))
        for group, line in [*zip(teachers, dashes, strict=False), *((group, "-") for group in students)]:
            draw_curve(axes, group, line, None if line == "-" else "0.45")
        finish_curves(axes, [*teachers, *students])
        axes.set_title(title)
        legend_title = "mean of the last epoch in brackets"
        axes.legend(frameon=False, fontsize="small", title=legend_title, title_fontsize="x-small", loc="lower right")


def draw_curve(axes: Axes, group: Group, line_style: str, colour: str | None) -> None:
    """Test top-1 of a group after each epoch: mean and a band of one deviation; without an epoch nothing."""
    curve = group.curve("test", "top1")
    if not curve:
        return
    epochs = range(1, len(curve) + 1)
    marker = "o" if len(curve) < 4 else None
    label = f"{group.label}  ({curve[-1].text(1)})"
    line = axes.plot(epochs, [s.mean for s in curve], line_style, marker=marker, color=colour, label=label)[0]
    if any(statistic.deviation for statistic in curve):
        axes.fill_between(epochs, *_band(curve), color=line.get_color(), alpha=0.15, linewidth=0)


def finish_curves(axes: Axes, groups: Sequence[Group]) -> None:
    """Axes of learning curves: whole epochs, and the accuracies of these groups after their first quarter."""
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", ylabel="test top-1 (%)")
    axes.set_ylim(_accuracy_limits([group.curve("test", "top1") for group in groups]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def accuracy_against(path: Path, key: str, groups: Sequence[Group], teachers: Sequence[Group], title: str) -> None:
    """Test top-1 of the last epoch against the values of one swept key, a line for each choice of the others."""
    series: dict[str, list[Group]] = {}
    for group in groups:
        if key in group.choices and group.runs:
            others = ", ".join(f"{name}={value}" for name, value in group.choices.items() if name != key)
            series.setdefault(others, []).append(group)
    values = list(dict.fromkeys(group.choices[key] for members in series.values() for group in members))
    numbers = _numbers(values)
    place: dict[str, float] = numbers or {value: float(i) for i, value in enumerate(values)}
    with _figure(path, 6, 4.2) as axes:
        for others, members in series.items():
            members = sorted(members, key=lambda group: place[group.choices[key]])
            accuracies = [group.statistic("test", "last", "top1") for group in members]
            points = [(place[group.choices[key]], s) for group, s in zip(members, accuracies, strict=True) if s]
            axes.errorbar(
                [x for x, _ in points],
                [statistic.mean for _, statistic in points],
                yerr=[statistic.deviation or 0 for _, statistic in points],
                fmt="o-" if numbers else "o",
                capsize=3,
                label=others or f"students (mean ± deviation, n={max(s.n for _, s in points)})",
            )
        for teacher in teachers:
            accuracy = teacher.statistic("test", "last", "top1")
            if accuracy is not None:
                axes.axhline(accuracy.mean, color="0.45", linestyle="--", label=f"{teacher.label} ({accuracy.text(1)})")
        _scale(axes, numbers, values)
        axes.set(xlabel=key, ylabel="test top-1, last epoch (%)", title=title)
        axes.legend(frameon=False, fontsize="small")


def _accuracy_limits(curves: Sequence[list[Statistic]]) -> tuple[float, float]:
    """An accuracy axis that shows what the curves do after their first quarter, in percent."""
    later = [statistic.mean for curve in curves for statistic in curve[len(curve) // 4 :]]
    if not later:
        return 0.0, 100.0
    margin = 1 + 0.1 * (max(later) - min(later))
    return max(0.0, min(later) - margin), min(100.0, max(later) + margin)


def _scale(axes: Any, numbers: dict[str, float] | None, values: Sequence[str]) -> None:
    """Ticks at the swept values; logarithmic where they span a factor of eight or more."""
    if numbers is None:
        axes.set_xticks(range(len(values)), values, rotation=20 if len(values) > 4 else 0)
        axes.set_xlim(-0.5, len(values) - 0.5)
        return
    if min(numbers.values()) > 0 and max(numbers.values()) / min(numbers.values()) >= 8:
        axes.set_xscale("log", base=2)
    axes.set_xticks(list(numbers.values()), list(numbers))
    axes.minorticks_off()


def _numbers(values: Sequence[str]) -> dict[str, float] | None:
    """The values as numbers, or None where one is none."""
    try:
        numbers = {value: float(value) for value in values}
    except ValueError:
        return None
    return numbers if all(math.isfinite(number) for number in numbers.values()) else None


def _band(curve: Sequence[Statistic]) -> tuple[list[float], list[float]]:
    return (
        [statistic.mean - (statistic.deviation or 0) for statistic in curve],
        [statistic.mean + (statistic.deviation or 0) for statistic in curve],
    )
