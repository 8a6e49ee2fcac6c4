"""Pictures: that they are PNG files, and what is drawn in them where."""

import math
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from kdrun.analysis import plots
from kdrun.analysis.aggregate import SweepRun, group_by_seed, teachers_by_seed
from kdrun.analysis.plots import figure
from kdrun.analysis.sweep import draw_run
from kdrun.spec.spec import Component, Recipe


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The axes of every picture that is drawn."""
    axes_drawn = []
    original = plots._axes

    def recording(drawn):
        axes_drawn.append(original(drawn))
        return axes_drawn[-1]

    monkeypatch.setattr(plots, "_axes", recording)
    return axes_drawn


def size_of_png(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


def points(line) -> list[tuple[float, float]]:
    return [tuple(point) for point in line.get_xydata().tolist()]


def test_learning_curves_are_means_over_seeds_with_bands(sweep, archive, drawn):
    path = archive.root / "curves.png"
    plots.learning_curves(path, teachers_by_seed(sweep), group_by_seed(sweep), "title")
    assert size_of_png(path) == (1050, 630)
    assert path.stat().st_size > 10_000
    (axes,) = drawn
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert {label: points(line) for label, line in lines.items()} == {
        "teacher resnet20 ce  (81.0 ± 1.4)": [(1, 71), (2, 81)],
        "method.temperature=1  (62.0 ± 2.8)": [(1, 52), (2, 62)],
        "method.temperature=4  (71.2 ± 0.4)": [(1, 61.25), (2, 71.25)],
        "method.temperature=16  (66.0)": [(1, 56), (2, 66)],
    }
    assert [line.get_linestyle() for line in axes.get_lines()] == ["--", "-", "-", "-"]
    bands = [band.get_paths()[0].get_extents() for band in axes.collections]
    deviation = math.sqrt(8)
    assert len(bands) == 3, "one run alone has none"
    assert (bands[1].ymin, bands[1].ymax) == pytest.approx((52 - deviation, 62 + deviation))
    assert axes.get_ylim()[0] < 52


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ((1.0, 4.0, 16.0), "log"),
        ((1.0, 2.0, 4.0), "linear"),
        ((0.0, 4.0, 16.0), "linear"),
        ((0.1, 0.5, 0.9), "log"),
        ((0.0, 1.0, 16.0), "symlog"),
    ],
)
def test_accuracy_against_a_number_is_a_line_in_its_order(archive, drawn, values, scale):
    top1 = dict(zip(values, (60.0, 70.0, 65.0), strict=True))
    jobs = [archive.job(top1[value], temperature=value) for value in (values[2], values[0], values[1])]
    path = archive.root / "temperature.png"
    plots.accuracy_against(path, "method.temperature", group_by_seed(jobs), [], "title")
    assert size_of_png(path) == (900, 630)
    (axes,) = drawn
    (line,) = [container.lines[0] for container in axes.containers]
    assert points(line) == [(value, top1[value]) for value in values]
    assert (line.get_linestyle(), axes.get_xscale()) == ("-", scale)
    ticks = dict(zip(axes.get_xticks(), (label.get_text() for label in axes.get_xticklabels()), strict=True))
    assert ticks == {value: f"{value:g}" for value in values}


def test_accuracy_against_one_key_has_a_line_for_each_choice_of_the_others(sweep, archive, drawn):
    jobs = [archive.job(60.0 + t + 10 * a, temperature=t, alpha=a) for t in (1.0, 2.0) for a in (0.1, 0.9)]
    jobs.append(archive.job(None, temperature=3.0, alpha=0.1))  # a value that no run has finished is not drawn
    groups = group_by_seed(jobs)
    plots.accuracy_against(archive.root / "t.png", "method.temperature", groups, teachers_by_seed(sweep), "title")
    (axes,) = drawn
    lines = {container.get_label(): points(container.lines[0]) for container in axes.containers}
    assert lines == {
        "method.alpha=0.1": [(1, 62), (2, 63)],
        "method.alpha=0.9": [(1, 70), (2, 71)],
    }
    (teacher,) = [line for line in axes.get_lines() if line.get_label().startswith("teacher")]
    assert (teacher.get_label(), set(teacher.get_ydata())) == ("teacher resnet20 ce (81.0 ± 1.4)", {81.0})
    assert len(axes.get_xticks()) == 2


def test_many_curves_differ_in_colour_or_marker_and_the_legend_is_beside_them(archive, drawn):
    jobs = [archive.job(50.0 + t, temperature=t) for t in range(1, 26)]
    path = archive.root / "curves.png"
    plots.learning_curves(path, teachers_by_seed(jobs), group_by_seed(jobs), "title")
    (axes,) = drawn
    lines = axes.get_lines()
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == len(lines) == 25
    assert axes.get_legend() is None
    (legend,) = axes.figure.legends
    canvas = axes.figure.canvas
    canvas.draw()
    beside, plot = legend.get_window_extent(), axes.get_window_extent()
    assert beside.x0 > plot.x1
    assert beside.x1 <= canvas.get_width_height()[0]
    assert beside.y0 >= 0
    assert plot.width > 5 * axes.figure.dpi


def test_where_a_second_stage_begins_is_marked_in_the_colour_of_its_curve(archive, drawn):
    jobs = []
    for name, stage1_epochs in (("KD", 0), ("FSP", 1)):
        method = Component(f"kdrun.methods.{name}", {"stage1_epochs": stage1_epochs} if stage1_epochs else {})
        spec = replace(archive.student(), method=method, recipe=Recipe(epochs=2 - stage1_epochs))
        jobs.append(SweepRun({"method": name.lower()}, archive.finish(spec, 60.0 + stage1_epochs)))
    plots.learning_curves(archive.root / "curves.png", [], group_by_seed(jobs), "title")
    (axes,) = drawn
    (kd, fsp, mark) = axes.get_lines()
    assert (list(mark.get_xdata()), mark.get_color()) == ([1, 1], fsp.get_color())
    assert [text.get_text() for text in axes.texts] == ["stage 2"]
    assert kd.get_color() != fsp.get_color()


def test_peers_are_drawn_in_the_colour_of_their_student(archive, drawn):
    spec = replace(archive.teacher(), method=Component("kdrun.methods.DML"))
    job = SweepRun({}, archive.finish(spec, 70.0, peers=(60.0, 50.0)))
    plots.learning_curves(archive.root / "curves.png", [], group_by_seed([job]), "title")
    student, *peers = drawn[0].get_lines()
    assert [points(line) for line in (student, *peers)] == [[(1, t - 10), (2, t)] for t in (70, 60, 50)]
    assert {line.get_color() for line in peers} == {student.get_color()}
    assert len({line.get_linestyle() for line in (student, *peers)}) == 3


@pytest.mark.parametrize(
    ("values", "turned"),
    [
        (["kd", "dkd", "at"], False),
        (["logit_matching", *(f"born_again_{i}" for i in range(12))], True),
        (["0", "0.001", "0.01", "0.1", "0.11", "0.12"], True),
    ],
)
def test_labels_of_ticks_do_not_overlap(archive, drawn, values, turned):
    jobs = []
    for i, value in enumerate(values):
        jobs.append(SweepRun({"x": value}, archive.finish(archive.student(temperature=1.0 + i), 60.0 + i)))
    plots.accuracy_against(archive.root / "x.png", "x", group_by_seed(jobs), [], "title")
    (axes,) = drawn
    axes.figure.canvas.draw()
    shown = [label for label in axes.get_xticklabels() if label.get_visible()]
    assert {label.get_rotation() for label in shown} == {40.0 if turned else 0.0}
    boxes = [label.get_window_extent() for label in shown]
    ends = [box.x1 for box in boxes]  # of turned labels, where they touch their tick
    line = boxes[0].height if not turned else 0.14 * axes.figure.dpi
    for i in range(len(shown) - 1):
        assert (ends[i + 1] - ends[i] >= line) if turned else (ends[i] < boxes[i + 1].x0)
    assert len(shown) >= min(4, len(values) - 2)


def test_a_figure_that_cannot_be_drawn_is_a_warning_and_leaves_no_older_one(tmp_path, caplog):
    path = tmp_path / "curves.png"
    path.write_bytes(b"older")
    with figure(path, 2, 2) as drawn:
        drawn.subplots().plot([1, 2], [1])
    assert not path.exists()
    assert f"{path} is not drawn: ValueError" in caplog.text


@pytest.mark.parametrize("begun", [Figure.__init__, Figure.add_subplot], ids=["figure", "axes"])
def test_a_figure_that_cannot_be_begun_is_a_warning_too(archive, tmp_path, caplog, monkeypatch, begun):
    """A matplotlib that cannot be imported, memory that runs out."""

    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(Figure, begun.__name__, fail)
    assert draw_run(archive.job(50.0)) == []
    assert "curves.png is not drawn: MemoryError: no room" in caplog.text


def test_a_matplotlibrc_that_cannot_be_read_is_a_warning(tmp_path):
    """Matplotlib reads that of the working directory first, whatever is set."""
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: \xe9\n")
    code = (
        "from pathlib import Path\n"
        "from kdrun.analysis.plots import figure\n"
        "with figure(Path('drawn.png'), 2, 2) as drawn: drawn.subplots().plot([0, 1])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "drawn.png is not drawn: UnicodeDecodeError" in ended.stderr


def test_figures_do_not_depend_on_the_users_matplotlib(tmp_path):
    """The backend of a notebook that is not installed here, and LaTeX that is not there."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nlines.linewidth: 9\n")
    code = (
        "from pathlib import Path\n"
        "from kdrun.analysis.plots import figure\n"
        "with figure(Path('drawn.png'), 2, 2) as drawn: drawn.subplots().plot([0, 1])"
    )
    surroundings = ({}, {"MPLBACKEND": "module://some_notebook.backend"})
    pictures = []
    for environment in surroundings:
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, **environment}, check=True)
        pictures.append((tmp_path / "drawn.png").read_bytes())
        (tmp_path / "matplotlibrc").unlink(missing_ok=True)
    assert pictures[0] == pictures[1]
