"""What runs answered in evaluations, as a picture: means and deviations worked out by hand."""

from dataclasses import replace

import pytest

from kdrun.tables import Published
from kdrun.tables.render.evaluations_figure import EvaluationsFigure

NAMES = ("test", "translate")
FINE = "ECE of 10⁶ bins"
# By row, evaluation and seed: top-1 and ECE; the ECE of fine bins is always 0.5. Of KD's seed 1 nothing is known.
ANSWERS = {
    ("cnn/ce", "test"): [(90.0, 0.1), (92.0, 0.3), (94.0, 0.2)],
    ("cnn/ce", "translate"): [(30.0, 0.6)],
    ("cnn/kd/resnet20", "test"): [(95.0, 0.05), None, (97.0, 0.07)],
}
PRINTED = {"translate top-1": 37.3, f"translate {FINE}": 0.564, "scale top-1": 79.4}


@pytest.fixture
def asked(paper_table):
    """The toy table without its control, with two evaluations; and what is kept."""
    base, kd, _, de_kd, _ = paper_table.entries
    base = replace(base, row=replace(base.row, published=Published(68.0, figures=PRINTED)))
    entries = [base, kd, de_kd]
    records = {
        each.key: {"figures": {"top-1": answer[0], "ECE": answer[1], FINE: 0.5}, "buckets": {}}
        for entry in entries
        for name in NAMES
        for each, answer in zip(entry.evaluations(name), ANSWERS.get((entry.row.name, name), ()), strict=False)
        if answer is not None
    }
    definition = replace(
        paper_table.definition, rows=tuple(e.row for e in entries), figures=(EvaluationsFigure(),), evaluations=NAMES
    )
    return {"definition": definition, "entries": entries, "kept": lambda each: records.get(each.key)}


def panels(figure) -> dict:
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def dots(axes) -> list[tuple[float, float]]:
    """Of ours: the place in whole rows, and the mean."""
    lines = [container.lines[0] for container in axes.containers]
    return [(line.get_ydata()[0], pytest.approx(line.get_xdata()[0])) for line in lines]


def bars(axes) -> list[float | None]:
    """Half the length of each bar; None where there is none."""
    found = []
    for container in axes.containers:
        segments = [segment for collection in container.lines[2] for segment in collection.get_segments()]
        found.append((segments[0][1][0] - segments[0][0][0]) / 2 if segments else None)
    return found


def diamonds(axes) -> list[float]:
    return [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]


def test_each_figure_of_each_evaluation_has_a_panel_with_the_rows(rendered, drawn, asked, tmp_path):
    rendered(**asked)
    found = panels(drawn[-1])
    assert list(found) == [
        *("test: top-1 (%)", "translate: top-1 (%)", "test: ECE", "translate: ECE", f"translate: {FINE}"),
    ]
    top1 = found["test: top-1 (%)"]
    assert dots(top1) == [(0, 92.0), (1, 96.0)]
    assert bars(top1) == pytest.approx([2.0, 2**0.5])
    assert dots(found["translate: ECE"]) == [(0, 0.6)]
    assert bars(found["translate: ECE"]) == [None], "one seed has no deviation"
    assert [label.get_text() for label in top1.get_yticklabels()] == ["cnn  baseline", "cnn  KD ← resnet20"]
    assert top1.yaxis.get_tick_params()["labelleft"]
    assert not found["translate: top-1 (%)"].yaxis.get_tick_params()["labelleft"], "the names stand once"
    assert top1.get_ylim() == found["translate: ECE"].get_ylim(), "a row stands at the same height everywhere"
    assert (tmp_path / "out" / "evaluations.png").stat().st_size > 5000


def test_published_figures_stand_beside_ours_and_only_at_the_papers_scale(rendered, drawn, asked):
    rendered(**asked)
    found = panels(drawn[-1])
    assert {title: diamonds(axes) for title, axes in found.items() if diamonds(axes)} == {
        **{"translate: top-1 (%)": [37.3], f"translate: {FINE}": [0.564]},
    }, "what is published of an evaluation that the table does not have is not drawn"
    (legend,) = drawn[-1].legends
    assert [text.get_text() for text in legend.get_texts()] == ["ours ± deviation over seeds", "published"]
    rendered(**asked, published=False)
    found = panels(drawn[-1])
    assert not any(map(diamonds, found.values()))
    assert f"translate: {FINE}" not in found, "alone it says nothing new"


def test_a_row_that_was_asked_nothing_is_not_there_and_no_picture_of_none(rendered, asked, tmp_path):
    rendered(**asked)
    asked["kept"] = lambda each: None
    rendered(**asked)
    assert (tmp_path / "out" / "evaluations.png").exists(), "a published figure alone is drawn"
    rendered(**asked, published=False)
    assert not (tmp_path / "out" / "evaluations.png").exists()
