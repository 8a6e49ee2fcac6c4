"""A paper's table as a picture of dots: what is drawn where, and how far the axes go."""

import itertools
import struct
from dataclasses import replace

import pytest

from kdrun.analysis.aggregate import Statistic
from kdrun.spec.spec import Component
from kdrun.tables import Entry, Row
from kdrun.tables.compare import BEST, LAST, Archive, compare
from kdrun.tables.measure import TOP1
from kdrun.tables.render.dots import dots


def bars(axes) -> list[tuple]:
    """Marker, colour, x, y and half length of every figure that has a bar, or could have."""
    found = []
    for container in axes.containers:
        dot, _, segments = container.lines
        ((x, y),) = dot.get_xydata().tolist()
        half = max((float(s[1, 0] - s[0, 0]) / 2 for bar in segments for s in bar.get_segments()), default=0.0)
        found.append((dot.get_marker(), dot.get_color(), round(x, 6), round(y, 6), round(half, 6)))
    return found


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def at(line, last: Statistic, best: Statistic | None = None, **changes):
    """The line with other numbers."""
    return replace(line, statistics={LAST: last, **({} if best is None else {BEST: best})}, **changes)


def draw(directory, lines) -> None:
    """Without published figures."""
    entries = [replace(line.entry, row=line.entry.row.without_published()) for line in lines]
    ours = [replace(line, entry=entry, difference_published=None) for line, entry in zip(lines, entries, strict=True)]
    dots(directory / "table.png", ours, TOP1, published_runs=None, title="title")


def test_every_row_is_a_dot_with_its_bar(paper_table, drawn, tmp_path):
    lines = compare(paper_table.entries, Archive(paper_table.find))
    path = tmp_path / "table.png"
    dots(path, lines, TOP1, published_runs=5, title="title")
    left, right = drawn[0].axes
    assert bars(left) == [
        *(("D", "C1", 68.0, 0.16, 0), ("o", "C0", 63.0, 0, 2.645751)),
        *(("D", "C1", 70.5, 1.16, 0.25), ("o", "C0", 64.0, 1, 3.535534)),
        *(("o", "0.55", 59.0, 2, 0), ("o", "C0", 66.0, 3, 0), ("D", "C1", 67.0, 4, 0)),
    ]
    assert bars(right) == [
        *(("D", "C1", 2.5, 1.16, 0), ("o", "C0", 2.0, 1, 0.5), ("o", "0.55", -1.0, 2, 0)),
        *(("D", "C1", 1.25, 3.16, 0), ("o", "C0", 3.0, 3, 1.527525), ("D", "C1", -1.0, 4, 0)),
    ]
    hollow = [line.get_xdata()[0] for line in left.get_lines() if line.get_markerfacecolor() == "white"]
    assert hollow == pytest.approx([191 / 3, 65, 59.5, 66])
    assert [label.get_text() for label in left.get_yticklabels()][1:3] == [
        *("cnn  KD ← resnet20", "cnn  control no_kl: KL removed")
    ]
    assert legend(drawn[0]) == [
        *("ours, last epoch (left ± deviation, right ± standard error)", "best on test", "control"),
        "published (± deviation over 5 runs)",
    ]
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    assert (width, height) == (1425, round(150 * (1.8 + 5 * 0.28)))
    assert path.stat().st_size > 10_000


def test_at_another_scale_nothing_published_is_drawn(rendered, drawn):
    rendered(published=False)
    (table,) = [figure for figure in drawn if len(figure.axes) == 2]
    assert {bar[0] for axes in table.axes for bar in bars(axes)} == {"o"}
    assert len(table.axes[0].get_yticks()) == 4, "the row without runs is left out"


def test_rows_stand_by_student_with_a_gap(paper_table, drawn, tmp_path):
    lines = compare(paper_table.entries, Archive(paper_table.find))
    specs = [replace(spec, student=Component("kdrun.models.resnet20")) for spec in lines[0].entry.specs]
    other = replace(lines[0], student="resnet20", entry=Entry(Row("resnet20/ce"), tuple(specs)))
    dots(tmp_path / "table.png", [lines[0], other, lines[1]], TOP1, published_runs=5, title="title")
    axes = drawn[0].axes[0]
    labels = [label.get_text().split()[0] for label in axes.get_yticklabels()]
    assert list(zip(labels, axes.get_yticks().tolist(), strict=True)) == [("cnn", 0), ("cnn", 1), ("resnet20", 2.7)]


def test_a_row_that_failed_does_not_stretch_the_axes(paper_table, drawn, tmp_path):
    line = compare(paper_table.entries, Archive(paper_table.find))[1]
    values = (70.0, 70.5, 71.0, 70.2, 10.0)
    lines = [at(line, Statistic.of([v]), difference_last=Statistic.of([v - 70])) for v in values]
    dots(tmp_path / "table.png", lines, TOP1, published_runs=5, title="title")
    left, right = drawn[0].axes
    assert left.get_xlim()[0] > 60
    assert right.get_xlim()[0] > -3
    assert [text.get_text() for text in left.texts] == ["10.0"]
    assert [text.get_text() for text in right.texts] == ["-60.0"]
    assert "beyond the axis: value given" in legend(drawn[0])


def test_baselines_and_the_bars_of_what_is_inside_are_never_cut(paper_table, drawn, tmp_path):
    base, row, *_ = compare(paper_table.entries, Archive(paper_table.find))
    lines = [
        at(base, Statistic(10.0, 3.0, 3)),
        *(at(row, Statistic(mean, error, 3)) for mean, error in ((90.0, 1.0), (92.0, 20.0))),
        at(base, Statistic(70.0, 9.0, 3)),
    ]
    draw(tmp_path, lines[1:])
    draw(tmp_path, lines)
    (low, high), (wide_low, _) = (figure.axes[0].get_xlim() for figure in drawn)
    assert low < 61
    assert high > 112
    assert wide_low < 7, "the failed baseline's bar, too"
    assert not drawn[1].axes[0].texts


def test_controls_go_beyond_the_axis_before_rows_do(paper_table, drawn, tmp_path):
    _, row, control, *_ = compare(paper_table.entries, Archive(paper_table.find))
    rows = [at(row, Statistic.of([mean])) for mean in (75.0, 78.0, 80.0)]
    far = [at(control, Statistic.of([mean])) for mean in (40.0, 74.0)]
    draw(tmp_path, [*rows, *far])
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["40.0"]
    assert [bar[2] for bar in bars(axes)] == [75, 78, 80, 74]


def test_the_legend_has_only_what_is_to_be_seen(paper_table, drawn, tmp_path):
    base = compare(paper_table.entries, Archive(paper_table.find))[0]
    draw(tmp_path, [at(base, Statistic.of([70.0]), Statistic.of([70.0]))])
    draw(tmp_path, [at(base, Statistic.of([70.0]), Statistic.of([70.5]))])
    assert [legend(figure) for figure in drawn] == [["ours, last epoch"], ["ours, last epoch", "best on test"]]
    assert [len(figure.axes) for figure in drawn] == [1, 1], "nothing has a difference"


def test_ticks_do_not_run_into_each_other(paper_table, drawn, tmp_path):
    base, row, *_ = compare(paper_table.entries, Archive(paper_table.find))
    one = [at(base, Statistic.of([11.6])), at(row, Statistic.of([11.7]))]
    for lines in ([base, row], one):
        draw(tmp_path, lines)
    for figure in drawn:
        figure.canvas.draw()
        boxes = [
            label.get_window_extent()
            for axes in figure.axes
            for label, place in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)
            if axes.get_xlim()[0] <= place <= axes.get_xlim()[1]
        ]
        gaps = [right.x0 - left.x1 for left, right in itertools.pairwise(boxes)]
        assert min(gaps) > 5, "pixels"
