"""Rows against their baselines: numbers worked out by hand from the runs of `paper_table`."""

import math
from dataclasses import replace

import pytest

from kdrun.analysis.aggregate import Statistic
from kdrun.analysis.differences import Difference
from kdrun.store.run import Run
from kdrun.tables import Entry, Row
from kdrun.tables.compare import Archive, baseline_of, compare


@pytest.fixture
def lines(paper_table) -> dict:
    return {line.entry.row.name: line for line in compare(paper_table.entries, Archive(paper_table.find))}


def test_differences_are_paired_over_the_seeds_that_both_have(lines):
    kd = lines["cnn/kd/resnet20"]  # seeds 0 and 2: 61.5 - 60, 66.5 - 64
    assert kd.difference_last == Difference(2.0, pytest.approx(0.5), 1, 2)
    assert kd.difference_best == Difference(2.5, pytest.approx(0.5), 1, 2)
    assert kd.difference_of_means_last == pytest.approx(64.0 - 63.0)
    control = lines["cnn/kd/resnet20/no_kl"]
    assert control.difference_last == Difference(-1.0, None, None, 1)
    assert lines["cnn/de_kd/resnet20@1"].difference_last.mean == pytest.approx((6 + 1 + 2) / 3)


def test_a_seed_that_the_baseline_lacks_is_not_paired(paper_table):
    lost = paper_table.entries[0].specs[0]
    lines = compare(paper_table.entries, Archive(lambda spec: None if spec == lost else paper_table.find(spec)))
    assert lines[1].difference_last == Difference(2.5, None, None, 1), "seed 2 alone: 66.5 - 64"
    assert lines[1].difference_of_means_last == pytest.approx(64.0 - 64.5)
    assert lines[2].difference_last is None, "its only seed is the lost one"


def test_means_are_over_what_is_finished(lines):
    assert lines["cnn/kd/resnet20"].last == Statistic(64.0, math.sqrt(12.5), 2)
    assert lines["cnn/kd/resnet20"].best == Statistic(65.0, math.sqrt(8.0), 2)
    assert {name: (sorted(line.runs), line.missing) for name, line in lines.items()} == {
        "cnn/ce": ([0, 1, 2], 0),
        "cnn/kd/resnet20": ([0, 2], 1),
        "cnn/kd/resnet20/no_kl": ([0], 2),
        "cnn/de_kd/resnet20@1": ([0, 1, 2], 0),
        "cnn/kd/big": ([], 0),
    }


def test_the_published_difference_is_that_of_the_accuracies_else_the_printed_gain(lines):
    assert {name: line.difference_published for name, line in lines.items()} == {
        "cnn/ce": None,
        "cnn/kd/resnet20": 2.5,
        "cnn/kd/resnet20/no_kl": None,
        "cnn/de_kd/resnet20@1": 1.25,
        "cnn/kd/big": -1.0,
    }


def test_a_teacher_of_several_students_counts_once(archive, paper_table, lines):
    assert lines["cnn/kd/resnet20"].teacher == Statistic.of([80.0, 82.0])
    taught = [replace(archive.student(seed), teachers=(archive.teacher(9),)) for seed in range(2)]
    for spec in taught:
        archive.finish(spec, 70.0, teachers=(81.0,))
    (line,) = compare([Entry(Row("cnn/kd/resnet20"), tuple(taught))], Archive(paper_table.find))
    assert line.teacher == Statistic(81.0, None, 1)


def test_a_baseline_is_found_where_it_is_shown_under_another_name(paper_table):
    first, kd, *_ = paper_table.entries
    shown = replace(first, row=Row("cnn/other", baseline="cnn/ce"), same_as=("cnn/ce",))
    lines = compare([shown, kd], Archive(paper_table.find))
    assert lines[1].difference_last == Difference(2.0, pytest.approx(0.5), 1, 2)
    assert baseline_of(lines[1], lines) is lines[0]
    assert lines[0].difference_last is None, "it is its own baseline"
    assert baseline_of(lines[0], lines) is None


def test_a_result_is_read_once(paper_table, monkeypatch):
    read = []
    original = Run.result
    monkeypatch.setattr(Run, "result", lambda run: read.append(run.directory) or original(run))
    compare(paper_table.entries, Archive(paper_table.find))
    assert len(read) == len(set(read)) == 9
