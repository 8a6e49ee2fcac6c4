"""Where networks end and on which way: points, pairs and definitions worked out by hand."""

import csv
from dataclasses import replace
from itertools import combinations

import pytest

from kdrun.cli.table_plan import plan
from kdrun.config.compose import ConfigError
from kdrun.config.table import compose_table
from kdrun.papers.abnar2020.paths import Paths
from kdrun.papers.abnar2020.paths_figure import PathsFigure
from kdrun.store.store import Store
from kdrun.tables import TableError, read_definition

ROWS = ("cnn/ce", "cnn/kd/resnet20")
FIGURE = PathsFigure(ROWS, epochs=(0, 1))
TARGET = "kdrun.papers.abnar2020.paths_figure.PathsFigure"


def record(asked: Paths) -> dict:
    """Networks on a line bent at a right angle; how alike two are follows from their positions."""
    networks = asked.networks
    size = range(len(networks))
    return {
        "networks": [{"run": i, "epoch": run.epochs_trained, "run_id": run.run_id} for i, run in networks],
        "num_examples": 40,
        "similarity": [[1 - abs(i - j) / 100 for j in size] for i in size],
        "cka": [[1 - abs(i - j) / 10 for j in size] for i in size],
        "coordinates": [[float(min(i, 3)), float(max(0, i - 3))] for i in size],
        "kept": 0.875,
    }


@pytest.fixture
def table(paper_table):
    """The toy table with the paths of its baseline and of KD: three seeds of two epochs each."""
    definition = replace(paper_table.definition, figures=(FIGURE,))
    return {"definition": definition, "entries": paper_table.entries}


@pytest.fixture
def kept(table):
    records = {each.key: record(each) for each in FIGURE.needs(table["entries"])}
    return lambda each: records.get(each.key)


def test_two_things_are_asked_of_the_rows(table):
    base, kd, *_ = table["entries"]
    assert FIGURE.ends(table["entries"]) == Paths((*base.specs, *kd.specs))
    assert FIGURE.ways(table["entries"]) == Paths((base.specs[0], kd.specs[0]), epochs=(0, 1))
    everything = [entry.row.name for entry in table["entries"] if PathsFigure().shows(entry)]
    assert everything == [*ROWS, "cnn/de_kd/resnet20@1"], "no control, no row without runs"
    alone = replace(base, specs=base.specs[:1])
    assert FIGURE.ends([alone]) is None, "one network is like no other"
    assert len(FIGURE.ways([alone]).networks) == 3
    assert PathsFigure(epochs=(2,)).ways([alone]) is None, "it has no epoch before its end"
    renamed = replace(base, row=replace(base.row, name="cnn/other"), same_as=("cnn/ce",))
    assert FIGURE.shows(renamed), "the same runs under another name"


def test_every_pair_is_in_the_csv_once(rendered, table, kept, tmp_path):
    rendered(**table, kept=kept)
    header, *rows = csv.reader((tmp_path / "out" / "similarity.csv").open())
    assert header == ["row_a", "seed_a", "epoch_a", "row_b", "seed_b", "epoch_b", "similarity", "cka"]
    pairs = [frozenset([tuple(row[:3]), tuple(row[3:6])]) for row in rows]
    at_end = [(name, str(seed), "2") for name in ROWS for seed in range(3)]
    on_way = [(name, "0", str(epoch)) for name in ROWS for epoch in range(3)]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == {frozenset(pair) for group in (at_end, on_way) for pair in combinations(group, 2)}
    values = {pair: tuple(map(float, row[6:])) for pair, row in zip(pairs, rows, strict=True)}
    # positions 0 and 5 of the ends; 1 and 5 of the ways, each row with epochs 0, 1, 2
    assert values[frozenset([("cnn/ce", "0", "2"), ("cnn/kd/resnet20", "2", "2")])] == pytest.approx((0.95, 0.5))
    assert values[frozenset([("cnn/ce", "0", "1"), ("cnn/kd/resnet20", "0", "2")])] == pytest.approx((0.96, 0.6))


def markers(axes, marker: str) -> list[tuple[float, float]]:
    lines = [line for line in axes.lines if line.get_marker() == marker and len(line.get_xdata()) == 1]
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines]


def is_true_to_scale(axes) -> bool:
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    return (high - low) / (right - left) == pytest.approx(axes.get_box_aspect())


def test_the_ends_of_all_seeds_and_the_paths_of_the_first(rendered, drawn, table, kept, tmp_path):
    rendered(**table, kept=kept)
    at_end, on_way = drawn[-2:]
    (plane,) = at_end.axes
    assert markers(plane, "o") == [(0, 0), (1, 0), (2, 0)]
    assert markers(plane, "s") == [(3, 0), (3, 1), (3, 2)]
    assert "88 % of the variance" in at_end.get_suptitle()
    whole, enlarged = on_way.axes[:2]
    assert (whole.get_title(), enlarged.get_title()) == ("all", "cnn, enlarged")
    lines = [line.get_xydata().tolist() for line in enlarged.lines if len(line.get_xdata()) > 1]
    assert lines == [[[0, 0], [1, 0], [2, 0]], [[3, 0], [3, 1], [3, 2]]]
    assert [text.get_text() for text in enlarged.texts] == ["2", "2", "1", "0", "1"]
    for axes in (plane, whole, enlarged):
        assert is_true_to_scale(axes)
        assert not axes.get_xticks().size
        assert not axes.get_yticks().size, "the axes have no meaning"
    for name in ("ends.png", "paths.png"):
        assert (tmp_path / "out" / name).stat().st_size > 5000


def test_what_was_not_computed_is_not_there_afterwards(rendered, table, kept, tmp_path):
    rendered(**table, kept=kept)
    only_ends = {FIGURE.ends(table["entries"]).key}
    rendered(**table, kept=lambda each: kept(each) if each.key in only_ends else None)
    out = tmp_path / "out"
    assert (out / "ends.png").exists()
    assert not (out / "paths.png").exists()
    assert len((out / "similarity.csv").read_text().splitlines()) == 1 + 15


def definition(**options) -> dict:
    ensemble = {"_target_": "kdrun.experiment.derived.Ensemble", "of": ["mlp/ce", "mlp/kd/cnn"]}
    return {
        "title": "Small",
        "overrides": ["dataset=digits", "recipe.epochs=4"],
        "figures": [{"_target_": TARGET, **options}],
        "rows": [
            {"name": "mlp/ce", "overrides": ["student=mlp", "method=ce"]},
            {"name": "mlp/kd/cnn", "overrides": ["student=mlp", "teacher=cnn", "method=kd"], "baseline": "mlp/ce"},
            {"name": "mlp/ensemble", "derived": ensemble},
            {"name": "mlp/crd", "unavailable": "kdrun has none"},
        ],
    }


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        (
            {"rows": ["mlp/ensemble", "mlp/crd", "mlp/none"]},
            ["mlp/ensemble has", "mlp/crd has", "mlp/none is no"],
        ),
        ({"epochs": [2, 1]}, ["epochs=[2, 1]: must be whole numbers from 0"]),
        ({"epochs": [1, 1]}, ["epochs=[1, 1]: must be whole numbers from 0"]),
        ({"epochs": [-1]}, ["epochs=[-1]: must be whole numbers from 0"]),
        ({"row": ["mlp/ce"]}, ["row: no such option; did you mean rows?"]),
    ],
)
def test_faulty_options_are_refused(options, problems):
    read = read_definition("small", definition(epochs=[0, 2]))
    assert read.figures == (PathsFigure(epochs=(0, 2)),)
    with pytest.raises(TableError) as refused:
        read_definition("small", definition(**options))
    assert all(text in problem for text, problem in zip(problems, refused.value.problems, strict=True))


def test_runs_that_cannot_be_compared_are_refused_before_anything_is_run():
    other = {"name": "mlp/other", "overrides": ["student=mlp", "method=ce", "dataset=synthetic"]}
    values = definition()
    with pytest.raises(ConfigError) as refused:
        compose_table(read_definition("small", {**values, "rows": [values["rows"][0], other]}), [], num_seeds=1)
    assert any(text.startswith("figures: paths: rows: their runs must be of one") for text in refused.value.problems)


def test_a_dry_run_lists_the_stopped_runs(tmp_path):
    values = definition(epochs=[0, 1, 3, 4])
    overrides = ["runtime.device=cpu", f"runtime.output_root={tmp_path}"]
    table = compose_table(read_definition("small", {**values, "rows": values["rows"][:1]}), overrides, num_seeds=2)
    assert plan(table, Store(tmp_path)).splitlines()[-1].startswith("paths: 3 runs for this figure alone ")
    assert not list(tmp_path.iterdir())
