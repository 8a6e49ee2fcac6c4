"""Rows made of runs, tables of errors, further columns and the heat map: numbers worked out by hand."""

import csv
from dataclasses import replace
from typing import ClassVar

import pytest

from kdrun.analysis.aggregate import Statistic
from kdrun.experiment.derived import DerivedRow, Ensemble
from kdrun.spec.spec import Component
from kdrun.tables import Entry, Published, Row
from kdrun.tables.compare import LAST, SELECTED, TRAIN, Archive, compare
from kdrun.tables.derivation import Derivation
from kdrun.tables.measure import ERRORS, TOP1
from kdrun.tables.render.heatmap import HeatmapFigure

CLASSES = [4, 3, 2, 1]


class Shift(DerivedRow):
    """Stands in for a paper's row; its records are made up."""

    figures: ClassVar[dict[str, str]] = {"shift": "what is added to the logits"}

    def words(self) -> str:
        return "shifted logits"

    def compute(self, runner):
        raise AssertionError("rendering computes nothing")


@pytest.fixture
def with_shift(paper_table):
    """The toy table of errors, of 40 test images, with shifted logits of seeds 0 and 1 of three."""
    row = Row(
        "cnn/shift",
        baseline="cnn/ce",
        published=Published(errors=9, errors_on=3),
        errors_on=(1, 2),
        derived=Derivation(Shift, ("cnn/ce",), teachers=False, options={}),
    )
    first, *_ = paper_table.entries
    base = Entry(Row("cnn/ce", published=Published(errors=12)), first.specs)
    derived = Entry(row, derived=tuple(Shift((spec,)) for spec in first.specs))
    definition = replace(
        paper_table.definition, rows=(base.row, row), measure="errors", columns=("selected",), runs=None
    )
    records = {
        each.key: {"test": {"last": {"top1": top1}}, "class_errors": CLASSES, "figures": {"shift": shift}}
        for each, top1, shift in zip(derived.derived, (70.0, 75.0), (3.0, 4.0), strict=False)
    }
    return definition, [base, derived], lambda each: records.get(each.key)


def test_a_derived_row_stands_beside_runs_like_any_other(rendered, cells, with_shift):
    definition, entries, kept = with_shift
    texts = rendered(definition=definition, entries=entries, kept=kept)
    baseline, shift = cells(texts["md"])
    # 60, 65 and 64 % of 40 images are 16, 14 and 14.4 errors, which no run can have: they are counted whole
    assert (baseline["published"], baseline["ours, last epoch"]) == ("12", "14.7 ± 1.2")
    assert shift == {
        **{"student": "cnn", "method": "shift", "published": "9", "Δ published": "-3.0", "runs": "2 of 3"},
        "objective": "shifted logits",
        **{"ours, last epoch": "11.0 ± 1.4", "Δ last": "-4.0 ± 0.0"},  # 12 - 16, 10 - 14
        **{"errors on 1, 2": "5.0 ± 0.0 (3)", "shift": "3.50 ± 0.71"},
    }
    assert "12.8" in next(line for line in texts["md"].splitlines() if line.startswith("- 40 test images")), "the mean"
    assert "Top-1" not in texts["md"]
    record = list(csv.DictReader(texts["csv"].splitlines()))[1]
    assert (record["measure"], record["n"], record["missing"], record["last_mean"]) == ("errors", "2", "1", "11.0")
    assert (record["classes"], record["errors_on_classes_mean"], record["published_errors_on_classes"]) == (
        *("1 2", "5.0", "3"),
    )
    assert record["derived"].split() == [each.key for each in entries[1].derived]
    assert (record["shift_mean"], record["run_ids"]) == ("3.5", "")


def test_errors_are_drawn_as_errors(rendered, drawn, with_shift):
    definition, entries, kept = with_shift
    rendered(definition=definition, entries=entries, kept=kept)
    left, right = drawn[0].axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("errors on the test set", "Δ to the baseline (errors)")
    marks = [container.lines[0].get_xdata().tolist()[0] for container in left.containers]
    assert marks == pytest.approx([12, 44 / 3, 9, 11])


def test_top1_and_errors_of_the_same_run():
    assert (TOP1.of(98.54, 10000), ERRORS.of(98.54, 10000)) == (98.54, 146)
    assert ERRORS.of(100 * (1 - 67 / 10000), 10000) == 67


def test_the_epoch_selected_on_validation_images_and_the_training_accuracy(archive, paper_table):
    spec = archive.student()
    run = archive.finish(spec, 70.0, val=66.0)
    rows = [{**row, "train": {"top1": 80.0 + row["epoch"]}} for row in run.rows()]
    run.write_result({name: value for name, value in run.result().items() if "sha256" not in name}, rows)
    (line,) = compare([Entry(Row("cnn/kd"), (spec,))], Archive(paper_table.find, columns=("selected", "train_top1")))
    assert [line.statistics[column].mean for column in (SELECTED, TRAIN, LAST)] == [66.0, 82.0, 70.0]
    (line,) = compare([Entry(Row("cnn/kd"), (spec,))], Archive(paper_table.find))
    assert not {SELECTED, TRAIN} & line.statistics.keys()


def test_errors_on_classes_are_those_of_a_run_alone(archive, paper_table):
    spec = archive.student()
    archive.finish(spec, 70.0)
    kept = {Ensemble((spec,)).key: {"class_errors": CLASSES}}
    entry = Entry(Row("cnn/kd", errors_on=(0, 3)), (spec,))
    (line,) = compare([entry], Archive(paper_table.find, lambda each: kept.get(each.key)))
    assert line.statistics["errors on 0, 3"] == Statistic(5, None, 1)


def test_students_of_one_name_are_told_apart(archive, paper_table):
    specs = [
        replace(archive.student(), student=Component("kdrun.models.mlp", {"hidden": hidden}))
        for hidden in ((30,), (800, 800))
    ]
    entries = [Entry(Row(f"mlp{i}/kd"), (spec,)) for i, spec in enumerate(specs)]
    assert [line.student for line in compare(entries, Archive(paper_table.find))] == [
        *("mlp, hidden 30", "mlp, hidden 800-800"),
    ]
    assert [line.student for line in compare(entries[:1], Archive(paper_table.find))] == ["mlp"]


@pytest.mark.parametrize(("measure", "best"), [(TOP1, [62.0, 70.0]), (ERRORS, [15.0, 12.0])])
def test_a_heat_map_has_each_mean_in_its_cell_and_frames_the_best(
    archive, paper_table, drawn, draw, measure, best, tmp_path
):
    entries = []
    for name, hidden, temperatures in (
        ("small", (8,), {1.0: 62.0, 20.0: 60.0}),
        ("large", (64,), {1.0: 65.0, 20.0: 70.0}),
    ):
        student = Component("kdrun.models.mlp", {"hidden": hidden})
        for temperature, top1 in temperatures.items():
            spec = replace(archive.student(temperature=temperature), student=student)
            archive.finish(spec, top1)
            entries.append(Entry(Row(f"{name}/kd_T{temperature:g}"), (spec,)))
        plain = replace(spec, method=Component("kdrun.methods.CE"), teachers=())
        archive.finish(plain, 50.0)
        entries.append(Entry(Row(f"{name}/ce"), (plain,)))
    lines = compare(entries, Archive(paper_table.find, measure=measure))
    path = tmp_path / "heatmap.png"
    definition = replace(paper_table.definition, measure="top1" if measure is TOP1 else "errors", rows=())
    draw(HeatmapFigure("student.hidden", "method.temperature"), lines, definition=definition)
    axes, bar = drawn[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["baseline", "1", "20"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["8", "64"]
    expected = [[50, 62, 60], [50, 65, 70]]
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    assert numbers == {
        (j, i): f"{measure.of(top1, 40):.{measure.digits}f}"
        for i, row in enumerate(expected)
        for j, top1 in enumerate(row)
    }
    framed = [(round(patch.get_x() + 0.47), round(patch.get_y() + 0.46)) for patch in axes.patches]
    assert [float(numbers[place]) for place in framed] == best
    assert bar.get_ylabel() == measure.unit
    assert path.stat().st_size > 5000
    draw(HeatmapFigure(), [])
    assert not path.exists()
