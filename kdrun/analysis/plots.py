"""Pictures: learning curves, and accuracy against a swept option."""

from __future__ import annotations

import io
import itertools
import math
import os
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from kdrun.analysis.aggregate import Group, Statistic
from kdrun.escaping import legend_label, printable
from kdrun.files import write_atomically
from kdrun.log import log

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LETTERS_AN_INCH = 12
"""Of a heading, in its size."""

COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9")
"""Of students; C7 is grey."""

GREY = "0.45"
"""Of teachers."""

MARKERS = ("", "s", "^", "D", "v", "P")

LEGEND_LETTER, LEGEND_LINE = 0.07, 0.215
"""Inches, of a legend."""

TICK_LETTER, TICK_LINE, AROUND_AXES = 0.09, 0.2, 0.8
"""Inches, of the label of a tick, and of a figure's width that is not its axes'."""


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure, sizes in inches, that is written as PNG in the end; no display, no global state.

    It is drawn with matplotlib's defaults, whatever the environment sets. One that cannot be drawn or written is a
    warning, and no older figure is left in its place.
    """
    try:
        with ExitStack() as surroundings:
            try:
                drawn = _new_figure(surroundings, width, height)
            except Exception as error:
                drawn = cast("Figure", _Undrawn(error))
            yield drawn
            from matplotlib.text import Text

            for text in drawn.findobj(Text):
                text.set_text(printable(text.get_text(), keep="\n"))
            content = io.BytesIO()
            drawn.savefig(content, format="png", dpi=150)
            write_atomically(path, content.getvalue())
    except Exception as error:
        log.warning("%s is not drawn: %s: %s", path, type(error).__name__, error)
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _new_figure(surroundings: ExitStack, width: float, height: float) -> Figure:
    surroundings.enter_context(_default_settings())
    surroundings.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a box stands for it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


class _Undrawn:
    """Stands for a figure that could not be begun: whoever draws on it gets the reason."""

    def __init__(self, reason: Exception) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        raise self._reason


@contextmanager
def _default_settings() -> Iterator[None]:
    """Matplotlib's defaults, not those of MPLBACKEND and matplotlibrc files, which may not even let it be imported."""
    location = find_spec("matplotlib")
    assert location is not None
    assert location.origin is not None
    shipped = Path(location.origin).with_name("mpl-data") / "matplotlibrc"
    own = {"MPLBACKEND": "agg", "MATPLOTLIBRC": str(shipped)}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams["text.parse_math"] = False  # names may have dollar signs
            yield
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})
        for name in (name for name, value in before.items() if value is None):
            del os.environ[name]


def style(axes: Axes) -> None:
    """How all axes look."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def set_heading(drawn: Figure, text: str) -> None:
    """A heading over the whole figure, on as many lines as its width asks for."""
    characters = int(LETTERS_AN_INCH * drawn.get_figwidth())
    drawn.suptitle(textwrap.fill(text, characters), fontsize="medium")


def legend_below(drawn: Figure, handles: Sequence[Artist] | None = None, columns: int = 3, **options: Any) -> None:
    """A legend below the whole figure, by default of all that is labelled in it."""
    given = {} if handles is None else {"handles": handles}
    drawn.legend(**given, loc="outside lower center", ncols=columns, frameon=False, fontsize="small", **options)


def grid(drawn: Figure, number: int, columns: int) -> list[Axes]:
    """`number` pairs of axes in lines of `columns`; the rest of the last line is empty."""
    axes: list[Axes] = drawn.subplots(math.ceil(number / columns), columns, squeeze=False).flatten().tolist()
    for empty in axes[number:]:
        empty.set_axis_off()
    return axes[:number]


def readable_range(
    start: float, values: Sequence[float], *, always: Sequence[float] = (), minor: Sequence[float] = (), span: float
) -> tuple[float, float]:
    """The ends of an axis that outliers do not stretch.

    From the start on, each next nearest value is within if the axis then spans at most `span`, or half as much again
    as before.

    Args:
        start: a value that is not far out.
        values: the data that must be visible.
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


def _axes(drawn: Figure) -> Axes:
    """The one pair of axes of a figure."""
    axes = drawn.add_subplot()
    style(axes)
    return axes


def learning_curves(path: Path, teachers: Sequence[Group], students: Sequence[Group], title: str) -> None:
    """Test top-1 after each epoch: the mean over seeds, a band of one deviation; teachers grey, peers in broken lines.

    Where a second stage begins stands a thin line, in the colour of its curve where it is of one alone.
    """
    with figure(path, 7, 4.2) as drawn:
        axes = _axes(drawn)
        coloured = [(group, GREY) for group in teachers]
        for group, (line, marker) in zip(teachers, _grey_looks(), strict=False):
            draw_curve(axes, group, line, GREY, marker)
        for group, (colour, marker) in zip(students, _looks(), strict=False):
            draw_curve(axes, group, "-", colour, marker)
            for peer, line in zip(group.peers, itertools.cycle((":", "-.", "--")), strict=False):
                draw_curve(axes, peer, line, colour, marker)
            coloured.append((group, colour))
        finish_curves(axes, [*teachers, *students, *(peer for group in students for peer in group.peers)])
        _mark_stages(axes, coloured)
        axes.set_title(title)
        _place_legend(axes, within=4, title="mean of the last epoch in brackets", loc="lower right")


def draw_curve(axes: Axes, group: Group, line_style: str, colour: str, marker: str = "") -> None:
    """Test top-1 of a group after each epoch: mean and a band of one deviation; without an epoch nothing.

    The markers are few; where there are few epochs, each has one.
    """
    curve = group.curve("test", "top1")
    if not curve:
        return
    epochs, statistics = list(curve), list(curve.values())
    label = f"{group.label}  ({statistics[-1].text(1)})"
    axes.plot(
        epochs,
        [s.mean for s in statistics],
        line_style,
        marker=marker or ("o" if len(curve) < 4 else ""),
        markevery=max(1, len(curve) // 8),
        markersize=5,
        color=colour,
        label=legend_label(label),
    )
    if any(statistic.deviation for statistic in statistics):
        axes.fill_between(epochs, *_band(statistics), color=colour, alpha=0.15, linewidth=0)


def _looks() -> Iterator[tuple[str, str]]:
    """Colours and markers without end: nine colours, and then again with another marker; the first nine have none."""
    return ((colour, marker) for marker in itertools.cycle(MARKERS) for colour in COLOURS)


def _grey_looks() -> Iterator[tuple[str, str]]:
    """Styles of line and markers without end, of teachers."""
    return ((line, marker) for marker in itertools.cycle(MARKERS) for line in ("--", ":", "-."))


def _mark_stages(axes: Axes, coloured: Sequence[tuple[Group, str]]) -> None:
    """A thin line, with a word, after the last epoch of a first stage."""
    colours: dict[int, set[str]] = {}
    for group, colour in coloured:
        if group.stage2_begins_after is not None:
            colours.setdefault(group.stage2_begins_after, set()).add(colour)
    for epoch, found in colours.items():
        colour = found.pop() if len(found) == 1 else GREY
        axes.axvline(epoch, color=colour, linewidth=0.8)
        axes.annotate(
            "stage 2",
            (epoch, 0.98),
            xycoords=axes.get_xaxis_transform(),
            xytext=(3, 0),
            textcoords="offset points",
            va="top",
            rotation=90,
            fontsize="x-small",
            color=colour,
        )


def _place_legend(
    axes: Axes, *, within: int, title: str | None = None, loc: Literal["best", "lower right"] = "best"
) -> None:
    """The legend: in the axes where it has few lines, else at their right, for which the figure grows."""
    labels = axes.get_legend_handles_labels()[1]
    options: dict[str, Any] = {"frameon": False, "fontsize": "small", "title": title, "title_fontsize": "x-small"}
    if len(labels) <= within:
        axes.legend(loc=loc, **options)
        return
    drawn = _figure_of(axes)
    beside = LEGEND_LETTER * max(map(len, [*labels, title or ""])) + 0.6
    drawn.set_size_inches(drawn.get_figwidth() + beside, max(drawn.get_figheight(), 0.8 + LEGEND_LINE * len(labels)))
    drawn.legend(loc="outside right upper", **options)


def finish_curves(axes: Axes, groups: Sequence[Group]) -> None:
    """Axes of learning curves: whole epochs, and the accuracies of these groups after their first quarter."""
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", ylabel="test top-1 (%)")
    axes.set_ylim(_accuracy_limits([list(group.curve("test", "top1").values()) for group in groups]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


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
    with figure(path, 6, 4.2) as drawn:
        axes = _axes(drawn)
        for (others, members), (colour, marker) in zip(series.items(), _looks(), strict=False):
            members = sorted(members, key=lambda group: place[group.choices[key]])
            accuracies = [group.statistic("test", "last", "top1") for group in members]
            points = [(place[group.choices[key]], s) for group, s in zip(members, accuracies, strict=True) if s]
            axes.errorbar(
                [x for x, _ in points],
                [statistic.mean for _, statistic in points],
                yerr=[statistic.deviation or 0 for _, statistic in points],
                fmt=f"{marker or 'o'}{'-' if numbers else ''}",
                color=colour,
                markersize=5,
                capsize=3,
                label=legend_label(others) or f"students (mean ± deviation, n={max(s.n for _, s in points)})",
            )
        for teacher, (line, marker) in zip(teachers, _grey_looks(), strict=False):
            accuracy = teacher.statistic("test", "last", "top1")
            if accuracy is not None:
                label = f"{teacher.label} ({accuracy.text(1)})"
                axes.axhline(accuracy.mean, color=GREY, linestyle=line, marker=marker, label=legend_label(label))
        _scale(axes, numbers, values)
        axes.set(xlabel=key, ylabel="test top-1, last epoch (%)", title=title)
        _place_legend(axes, within=2)


def _accuracy_limits(curves: Sequence[list[Statistic]]) -> tuple[float, float]:
    """An accuracy axis that shows what the curves do after their first quarter, in percent."""
    later = [statistic.mean for curve in curves for statistic in curve[len(curve) // 4 :]]
    if not later:
        return 0.0, 100.0
    margin = 1 + 0.1 * (max(later) - min(later))
    return max(0.0, min(later) - margin), min(100.0, max(later) + margin)


def _figure_of(axes: Axes) -> Figure:
    return cast("Figure", axes.figure)  # none of ours is a figure within a figure


def _scale(axes: Axes, numbers: dict[str, float] | None, values: Sequence[str]) -> None:
    """Ticks at the swept values; logarithmic where those above 0 span a factor of eight or more."""
    if numbers is None:
        axes.set_xticks(range(len(values)), [printable(value) for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
    else:
        positive = [number for number in numbers.values() if number > 0]
        wide = bool(positive) and min(numbers.values()) >= 0 and max(positive) / min(positive) >= 8
        if wide and len(positive) == len(numbers):
            axes.set_xscale("log", base=2)
        elif wide:
            axes.set_xscale("symlog", base=2, linthresh=min(positive))
        axes.set_xticks(list(numbers.values()), list(numbers))
        axes.minorticks_off()
    _spread_tick_labels(axes)


def _spread_tick_labels(axes: Axes) -> None:
    """Rotates tick labels that would overlap, and leaves out labels that still would."""
    ends, ticks = axes.get_xlim(), [float(tick) for tick in axes.get_xticks()]
    low, high, *places = axes.transScale.transform([(x, 1.0) for x in (*ends, *ticks)])[:, 0].tolist()
    inches = [(place - low) / (high - low) * (_figure_of(axes).get_figwidth() - AROUND_AXES) for place in places]
    labels = sorted(zip(inches, axes.get_xticklabels(), strict=True), key=lambda pair: pair[0])
    room = min((right - left for (left, _), (right, _) in itertools.pairwise(labels)), default=math.inf)
    if room > TICK_LETTER * (1 + max(len(label.get_text()) for _, label in labels)):
        return
    last = -math.inf
    for place, label in labels:
        label.set(rotation=40, ha="right", rotation_mode="anchor", visible=place - last > TICK_LINE)
        last = place if label.get_visible() else last


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
