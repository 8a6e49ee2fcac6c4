"""Learning curves and teachers' accuracies of a paper's table: what is drawn in them where."""

from dataclasses import replace

import pytest

from kdrun.analysis.plots import readable_range
from kdrun.spec.spec import Component
from kdrun.tables import Entry, Row
from kdrun.tables.compare import Archive, compare
from kdrun.tables.measure import TOP1
from kdrun.tables.render.curves import CurvesFigure, TeacherAccuracyFigure
from kdrun.tables.render.dots import dots

KINDS = ("tfkd_reg", "kd")


def test_a_figure_with_nothing_to_show_is_deleted(paper_table, draw, tmp_path):
    lines = compare(paper_table.entries, Archive(lambda spec: None))
    for figure in (CurvesFigure(), TeacherAccuracyFigure()):
        path = tmp_path / figure.files[0]
        path.write_bytes(b"of another time")
        draw(figure, lines)
        assert not path.exists()
    path.write_bytes(b"of another time")
    dots(path, [], TOP1, published_runs=None, title="title")
    assert not path.exists()


@pytest.fixture
def with_reg(archive, paper_table):
    """The rows with one of Tf-KD_reg, whose seeds end at these accuracies."""

    def with_reg(*accuracies: float) -> list:
        method = Component("kdrun.methods.TfKDReg")
        specs = [replace(archive.student(seed), method=method, teachers=()) for seed in range(len(accuracies))]
        for spec, top1 in zip(specs, accuracies, strict=True):
            archive.finish(spec, top1)
        return [*paper_table.entries, Entry(Row("cnn/tfkd_reg", baseline="cnn/ce"), tuple(specs))]

    return with_reg


def test_curves_are_of_the_students_with_a_run_of_the_first_kind(paper_table, with_reg, drawn, draw):
    specs = [replace(spec, student=Component("kdrun.models.resnet20")) for spec in paper_table.entries[0].specs]
    alone = Entry(Row("resnet20/ce"), tuple(specs))
    lines = compare([*with_reg(70.0, 72.0), alone], Archive(paper_table.find))
    draw(CurvesFigure(kinds=KINDS), lines)
    (axes,) = drawn[0].axes
    assert axes.get_title() == "cnn"
    drawn_curves = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert drawn_curves == {
        "baseline  (63.0 ± 2.6)": [[1, 53], [2, 63]],
        "Tf-KD_reg  (71.0 ± 1.4)": [[1, 61], [2, 71]],
        "KD ← resnet20  (64.0 ± 3.5)": [[1, 54], [2, 64]],
    }


def test_a_kind_of_no_row_is_a_problem(paper_table):
    assert list(CurvesFigure(kinds=("ce", "lsr")).check(paper_table.definition)) == [
        "kinds: lsr: no row is of this kind",
    ]


def test_a_student_stands_against_its_teachers_accuracy(paper_table, drawn, draw):
    lines = compare(paper_table.entries, Archive(paper_table.find))
    draw(TeacherAccuracyFigure(), lines)
    (axes,) = drawn[0].axes
    (container,) = axes.containers
    assert container.get_label() == "cnn ← resnet20"
    assert container.lines[0].get_xydata().tolist() == [[16, 66], [81, 64]], "in the order of the teacher's accuracy"
    (baseline,) = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert (baseline.get_label(), set(baseline.get_ydata())) == ("cnn baseline (63.0 ± 2.6)", {63.0})


def test_a_failed_row_does_not_stretch_the_curves(paper_table, with_reg, drawn, draw):
    draw(CurvesFigure(kinds=KINDS), compare(with_reg(10.0, 10.0), Archive(paper_table.find)))
    axes = drawn[0].axes[0]
    assert axes.get_ylim()[0] > 45
    labels = [line.get_label() for line in axes.get_lines()]
    assert "Tf-KD_reg, below the axis  (10.0 ± 0.0)" in labels
    assert "baseline  (63.0 ± 2.6)" in labels


@pytest.mark.parametrize(
    ("start", "values", "always", "minor", "ends"),
    [
        (92, [91, 10, 92], (), (), (91, 92)),
        (92, [91, 10, 92], (30,), (), (10, 92)),  # 30 to 92 once in, 10 makes it only a third longer
        (92, [91, 92, 10], (40,), (), (40, 92)),
        (0, [-80, -82], (0,), (), (0, 0)),
        (0, [1], (0,), (-20, -9), (-9, 1)),
        (90, [70, 60, 30], (), (), (60, 90)),  # each step at most half as long again: 20, 30, then 60
    ],
)
def test_a_readable_range(start, values, always, minor, ends):
    assert readable_range(start, values, always=always, minor=minor, span=20) == ends
