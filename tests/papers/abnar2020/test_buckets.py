"""Accuracies by what was asked: numbers worked out by hand."""

import csv
from dataclasses import replace

import pytest

from kdrun.papers.abnar2020.buckets import BucketsFigure

NAMES = ("agreement", "blimp")
ATTRACTORS = [{"0": 90.0, "1": 70.0}, {"0": 94.0, "1": 60.0}, {"0": 92.0}]
DISTANCES = {"2": 95.0, "10": 80.0, "16": 75.0, "17": 10.0}
PARADIGMS = {"irregular_plural": 80.0, "attractors_2": 45.0}


@pytest.fixture
def asked(paper_table):
    """The toy table with questions about agreement: attractors of three seeds, the rest of the first seed."""
    base, kd, *_ = paper_table.entries
    records = {}
    for entry in (base, kd):
        for each, shares in zip(entry.evaluations("agreement"), ATTRACTORS, strict=True):
            records[each.key] = {"figures": {}, "buckets": {"attractors": shares}}
        records[entry.evaluations("agreement")[0].key]["buckets"]["distance"] = DISTANCES
    records[kd.evaluations("blimp")[0].key] = {"figures": {"accuracy": 62.5}, "buckets": {"paradigm": PARADIGMS}}
    definition = replace(paper_table.definition, rows=(base.row, kd.row), figures=(BucketsFigure(),), evaluations=NAMES)
    return {"definition": definition, "entries": [base, kd], "kept": lambda each: records.get(each.key)}


def test_every_bucket_is_in_the_csv(rendered, asked, tmp_path):
    rendered(**asked)
    header, *rows = csv.reader((tmp_path / "out" / "buckets.csv").open())
    assert header == ["row", "evaluation", "kind", "bucket", "mean", "std", "n"]
    of_base = [tuple(row[1:]) for row in rows if row[0] == "cnn/ce"]
    assert of_base == [
        ("agreement", "attractors", "0", "92.0", "2.0", "3"),
        ("agreement", "attractors", "1", "65.0", str(50**0.5), "2"),
        *(("agreement", "distance", *pair, "", "1") for pair in (("2", "95.0"), ("10", "80.0"))),
        *(("agreement", "distance", *pair, "", "1") for pair in (("16", "75.0"), ("17", "10.0"))),
    ], "numbers by size, not as words"
    assert [row[1:5] for row in rows if row[2] == "paradigm"] == [
        ["blimp", "paradigm", "irregular_plural", "80.0"],
        ["blimp", "paradigm", "attractors_2", "45.0"],
    ]


def test_numbers_are_lines_and_words_are_dots(rendered, drawn, asked, tmp_path):
    rendered(**asked)
    attractors, distance, paradigm, _ = drawn[-1].axes
    assert [axes.get_title() for axes in (attractors, distance, paradigm)] == ["agreement", "agreement", "blimp"]
    assert (attractors.get_xlabel(), distance.get_xlabel()) == ("attractors", "distance")
    first, second = (container.lines[0] for container in attractors.containers)
    assert first.get_ydata().tolist() == second.get_ydata().tolist() == [92.0, 65.0]
    assert [round(x) for x in first.get_xdata()] == [0, 1]
    assert first.get_xdata()[0] < second.get_xdata()[0], "so that both are seen"
    bar, missing = attractors.containers[0].lines[2][0].get_segments()
    assert (bar[1][1] - bar[0][1]) / 2 == pytest.approx(2.0)
    assert (missing[1][1] - missing[0][1]) / 2 == pytest.approx(50**0.5)
    assert [line.get_linestyle() for line in (first, second)] == ["-", "--"]
    far = distance.containers[0].lines[0]
    assert far.get_ydata().tolist() == [95.0, 80.0, 75.0], "distances beyond 16 are in the CSV alone"
    (dots,) = (container.lines[0] for container in paradigm.containers)
    assert dots.get_linestyle() == "None"
    assert dots.get_xdata().tolist() == [80.0, 45.0]
    assert [label.get_text() for label in paradigm.get_yticklabels()] == ["irregular plural", "attractors 2"]
    at_chance = [line for line in paradigm.lines if list(line.get_xdata()) == [50.0, 50.0]]
    assert at_chance, "45 % is worse than guessing"
    assert not [line for line in attractors.lines if list(line.get_ydata()) == [50.0, 50.0]]
    (legend,) = drawn[-1].legends
    assert [text.get_text() for text in legend.get_texts()] == ["cnn", "cnn ← resnet20"]


def test_an_evaluation_without_buckets_has_no_figure(rendered, asked, tmp_path):
    rendered(**{**asked, "kept": lambda each: {"figures": {"top-1": 50.0}} if hasattr(each, "on") else None})
    assert not list((tmp_path / "out").glob("buckets.*"))
