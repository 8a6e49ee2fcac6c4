"""Pictures of a paper's table: what is drawn in them where."""

import struct
from contextlib import contextmanager
from dataclasses import replace

import pytest

from kdrun.analysis import paper_plots
from kdrun.analysis.aggregate import Statistic
from kdrun.analysis.comparison import compare
from kdrun.experiment.spec import Component
from kdrun.tables import Entry, Row


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that are drawn."""
    figures = []
    original = paper_plots.figure

    @contextmanager
    def recording(path, width, height):
        with original(path, width, height) as figure:
            figures.append(figure)
            yield figure

    monkeypatch.setattr(paper_plots, "figure", recording)
    return figures


def bars(axes) -> list[tuple]:
    """Marker, colour, x, y and half length of every figure that has a bar, or could have."""
    found = []
    for container in axes.containers:
        dot, _, segments = container.lines
        ((x, y),) = dot.get_xydata().tolist()
        half = max((float(s[1, 0] - s[0, 0]) / 2 for bar in segments for s in bar.get_segments()), default=0.0)
        found.append((dot.get_marker(), dot.get_color(), round(x, 6), round(y, 6), round(half, 6)))
    return found


def test_every_row_is_a_dot_with_its_bar(paper_table, drawn, tmp_path):
    lines = compare(paper_table.entries, paper_table.find)
    path = tmp_path / "table.png"
    paper_plots.accuracy_dots(path, lines, published=True, title="title")
    left, right = drawn[0].axes
    assert bars(left) == [
        *(("D", "C1", 68.0, 0.16, 0), ("o", "C0", 63.0, 0, 2.645751)),
        *(("D", "C1", 70.5, 1.16, 0.25), ("o", "C0", 64.0, 1, 3.535534)),
        *(("o", "0.55", 59.0, 2, 0), ("o", "C0", 66.0, 3, 0), ("D", "C1", 67.0, 4.16, 0)),
    ]
    assert bars(right) == [
        *(("D", "C1", 2.5, 1.16, 0), ("o", "C0", 2.0, 1, 0.5), ("o", "0.55", -1.0, 2, 0)),
        *(("D", "C1", 1.25, 3.16, 0), ("o", "C0", 3.0, 3, 1.527525), ("D", "C1", -1.0, 4.16, 0)),
    ]
    hollow = [line.get_xdata()[0] for line in left.get_lines() if line.get_markerfacecolor() == "white"]
    assert hollow == pytest.approx([191 / 3, 65, 59.5, 66])
    assert [label.get_text() for label in left.get_yticklabels()][1:3] == [
        *("cnn  KD ← resnet20", "cnn  control: KL removed")
    ]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()][1:] == ["best on test", "control", "published"]
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    assert (width, height) == (1425, round(150 * (1.5 + 5 * 0.28)))
    assert path.stat().st_size > 10_000


def test_at_another_scale_nothing_published_is_drawn(paper_table, drawn, tmp_path):
    lines = compare(paper_table.entries, paper_table.find)
    paper_plots.accuracy_dots(tmp_path / "table.png", lines, published=False, title="title")
    assert {bar[0] for axes in drawn[0].axes for bar in bars(axes)} == {"o"}
    assert len(drawn[0].axes[0].get_yticks()) == 4, "the row without runs is left out"


def test_rows_stand_by_student_with_a_gap(paper_table, drawn, tmp_path):
    lines = compare(paper_table.entries, paper_table.find)
    other = replace(lines[0], entry=Entry(Row("resnet20/ce"), lines[0].entry.specs))
    paper_plots.accuracy_dots(tmp_path / "table.png", [lines[0], other, lines[1]], published=False, title="title")
    axes = drawn[0].axes[0]
    labels = [label.get_text().split()[0] for label in axes.get_yticklabels()]
    assert list(zip(labels, axes.get_yticks().tolist(), strict=True)) == [("cnn", 0), ("cnn", 1), ("resnet20", 2.7)]


def test_a_row_that_failed_does_not_stretch_the_axes(paper_table, drawn, tmp_path):
    line = compare(paper_table.entries, paper_table.find)[1]
    values = (70.0, 70.5, 71.0, 70.2, 10.0)
    lines = [replace(line, last=Statistic.of([v]), difference_last=Statistic.of([v - 70])) for v in values]
    paper_plots.accuracy_dots(tmp_path / "table.png", lines, published=False, title="title")
    left, right = drawn[0].axes
    assert left.get_xlim()[0] > 60
    assert right.get_xlim()[0] > -3
    assert [text.get_text() for text in left.texts] == ["10.0"]
    assert [text.get_text() for text in right.texts] == ["-60.0"]


@pytest.mark.parametrize("number", [1, 80])
def test_the_height_grows_with_the_rows(paper_table, drawn, tmp_path, number):
    line = compare(paper_table.entries, paper_table.find)[0]
    paper_plots.accuracy_dots(tmp_path / "table.png", [line] * number, published=True, title="title")
    assert drawn[0].get_figheight() == pytest.approx(1.5 + 0.28 * number)
    assert len(drawn[0].axes[0].containers) == 2 * number


def test_a_picture_of_nothing_is_not_there(paper_table, tmp_path):
    lines = compare(paper_table.entries, lambda spec: None)
    path = tmp_path / "picture.png"
    for draw in (paper_plots.curves, paper_plots.teacher_accuracy):
        path.write_bytes(b"of another time")
        draw(path, lines, title="title")
        assert not path.exists()
    path.write_bytes(b"of another time")
    paper_plots.accuracy_dots(path, lines, published=False, title="title")
    assert not path.exists()


def test_curves_are_of_students_that_have_a_teacher_free_row(archive, paper_table, drawn, tmp_path):
    method = Component("kdrun.methods.TfKDReg")
    specs = [replace(archive.student(seed), method=method, teachers=()) for seed in range(2)]
    for spec, top1 in zip(specs, (70.0, 72.0), strict=True):
        archive.finish(spec, top1)
    reg = Entry(Row("cnn/tfkd_reg", baseline="cnn/ce"), tuple(specs))
    alone = replace(paper_table.entries[0], row=Row("resnet20/ce"))
    lines = compare([*paper_table.entries, reg, alone], paper_table.find)
    paper_plots.curves(tmp_path / "curves.png", lines, title="title")
    (axes,) = drawn[0].axes
    assert axes.get_title() == "cnn"
    curves = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert curves == {
        "baseline  (63.0 ± 2.6)": [[1, 53], [2, 63]],
        "Tf-KD_reg  (71.0 ± 1.4)": [[1, 61], [2, 71]],
        "KD ← resnet20  (64.0 ± 3.5)": [[1, 54], [2, 64]],
    }


def test_a_student_stands_against_its_teachers_accuracy(paper_table, drawn, tmp_path):
    lines = compare(paper_table.entries, paper_table.find)
    paper_plots.teacher_accuracy(tmp_path / "teacher_accuracy.png", lines, title="title")
    (axes,) = drawn[0].axes
    (container,) = axes.containers
    assert container.get_label() == "cnn ← resnet20"
    assert container.lines[0].get_xydata().tolist() == [[16, 66], [81, 64]], "in the order of the teacher's accuracy"
    (baseline,) = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert (baseline.get_label(), set(baseline.get_ydata())) == ("cnn baseline (63.0 ± 2.6)", {63.0})
