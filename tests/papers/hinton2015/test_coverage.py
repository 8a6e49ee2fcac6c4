"""What specialists change, by how many of them know a class: numbers worked out by hand."""

import csv
from dataclasses import replace

import pytest

from kdrun.papers.hinton2015.coverage import CoverageFigure
from kdrun.papers.hinton2015.specialists import Specialists
from kdrun.tables import Entry, Row
from kdrun.tables.derivation import Derivation

# By seed: specialists that know the class, test images, of them right before and after.
BY_SEED = [
    [(0, 10, 5, 5), (1, 20, 10, 12), (3, 10, 0, 2)],
    [(0, 12, 6, 6), (1, 22, 10, 14), (2, 6, 4, 3)],
]
SUMS = [(0, 22, 11, 11, 0.0), (1, 42, 20, 26, 30.0), (2, 6, 4, 3, -25.0), (3, 10, 0, 2, None)]


@pytest.fixture
def asked(paper_table):
    """The toy table with specialists, of three seeds; and what is kept of the first two."""
    first, *_ = paper_table.entries
    row = Row(
        "cnn/specialists", baseline="cnn/ce", derived=Derivation(Specialists, ("cnn/ce",), teachers=False, options={})
    )
    entry = Entry(row, derived=tuple(Specialists((spec,)) for spec in first.specs))
    names = ("num_specialists", "num_images", "num_correct_generalist", "num_correct_combined")
    figures = {"conditional": 70.0, "generalist's": 65.0, "specialists": 3}
    records = {
        each.key: {
            "test": {"last": {"top1": 70.0}},
            "class_errors": [12, 0, 0, 0],
            "figures": figures,
            "cover": [dict(zip(names, counts, strict=True)) for counts in rows],
        }
        for each, rows in zip(entry.derived, BY_SEED, strict=False)
    }
    definition = replace(paper_table.definition, rows=(first.row, row), figures=(CoverageFigure(),))
    return {"definition": definition, "entries": [first, entry]}, lambda each: records.get(each.key)


def test_images_are_added_up_over_the_seeds_that_are_finished(rendered, drawn, asked, tmp_path):
    table, kept = asked
    rendered(**table, kept=kept)
    rows = list(csv.reader((tmp_path / "out" / "cover.csv").open()))
    assert rows[0] == [
        *("student", "method", "num_specialists", "num_images", "num_correct_generalist", "num_correct", "change"),
    ]
    expected = [[*map(str, row[:-1]), "" if row[-1] is None else str(row[-1])] for row in SUMS]
    assert [row[2:] for row in rows[1:]] == expected
    assert {tuple(row[:2]) for row in rows[1:]} == {("cnn", "specialists")}
    (axes,) = drawn[-1].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0\n22", "1\n42", "2\n6", "3\n10"]
    heights = [patch.get_height() for patch in axes.patches]
    assert heights == pytest.approx([0, 30, -25, float("nan")], nan_ok=True), "of none that was right nothing is told"
    assert (tmp_path / "out" / "cover.png").stat().st_size > 5000


def test_a_panel_for_each_row_of_specialists(rendered, drawn, asked):
    table, kept = asked
    more = replace(table["entries"][1], row=replace(table["entries"][1].row, name="cnn/specialists_soft"))
    rendered(**{**table, "entries": [*table["entries"], more]}, kept=kept)
    assert len({axes.get_title() for axes in drawn[-1].axes}) == len(drawn[-1].axes) == 2
