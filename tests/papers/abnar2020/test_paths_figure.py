"""Where networks end and on which way: points, pairs and definitions worked out by hand."""

import csv
from dataclasses import replace
from itertools import combinations

import pytest

from kdrun.cli.table_plan import plan
from kdrun.config.compose import ConfigError
from kdrun.config.table import compose_table
from kdrun.experiment.derived import Paths
from kdrun.store.store import Store
from kdrun.tables import TableError, Waypoints, read_definition
from kdrun.papers.abnar2020.paths_figure import both, ends, followed, ways

ROWS = ("cnn/ce", "cnn/kd/resnet20")
WAYPOINTS = Waypoints(ROWS, epochs=(0, 1))


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
    definition = replace(paper_table.definition, figures=("paths",), paths=WAYPOINTS)
    return {"definition": definition, "entries": paper_table.entries}


@pytest.fixture
def kept(table):
    records = {each.key: record(each) for each in both(table["entries"], WAYPOINTS)}
    return lambda each: records.get(each.key)


def test_two_things_are_asked_of_the_rows(table):
    base, kd, *_ = table["entries"]
    assert ends(table["entries"], WAYPOINTS) == Paths((*base.specs, *kd.specs))
    assert ways(table["entries"], WAYPOINTS) == Paths((base.specs[0], kd.specs[0]), epochs=(0, 1))
    everything = followed(table["entries"], Waypoints())
    assert [entry.row.name for entry in everything] == [*ROWS, "cnn/de_kd/resnet20@1"], (
        "no control, no row without runs"
    )
    alone = replace(base, specs=base.specs[:1])
    assert ends([alone], WAYPOINTS) is None, "one network is like no other"
    assert len(ways([alone], WAYPOINTS).networks) == 3
    assert ways([alone], Waypoints(epochs=(2,))) is None, "it has no epoch before its end"
    renamed = replace(base, row=replace(base.row, name="cnn/other"), same_as=("cnn/ce",))
    assert followed([renamed], WAYPOINTS) == [renamed], "the same runs under another name"


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
    only_ends = {ends(table["entries"], WAYPOINTS).key}
    rendered(**table, kept=lambda each: kept(each) if each.key in only_ends else None)
    out = tmp_path / "out"
    assert (out / "ends.png").exists()
    assert not (out / "paths.png").exists()
    assert len((out / "similarity.csv").read_text().splitlines()) == 1 + 15
    rendered(**table)
    assert not [path for pattern in ("ends.*", "paths.*", "similarity.*") for path in out.glob(pattern)]


PLAIN = {
    "title": "Small",
    "overrides": ["dataset=digits", "recipe.epochs=4"],
    "figures": ["paths"],
    "rows": [
        {"name": "mlp/ce", "overrides": ["student=mlp", "method=ce"]},
        {"name": "mlp/kd/cnn", "overrides": ["student=mlp", "teacher=cnn", "method=kd"], "baseline": "mlp/ce"},
        {"name": "mlp/ensemble", "derived": {"kind": "ensemble", "of": ["mlp/ce", "mlp/kd/cnn"]}},
        {"name": "mlp/crd", "unavailable": "kdrun has none"},
    ],
}


def refusal(**changes) -> list[str]:
    with pytest.raises(TableError) as refused:
        read_definition("small", {**PLAIN, **changes})
    return refused.value.problems


def test_a_definition_says_whose_paths_and_what_is_wrong_with_it():
    definition = read_definition("small", {**PLAIN, "paths": {"rows": ["mlp/ce"], "epochs": [0, 2]}})
    assert definition.paths == Waypoints(("mlp/ce",), (0, 2))
    assert refusal(paths={"rows": ["mlp/ensemble", "mlp/crd", "mlp/none"]}) == [
        "small.paths: rows: mlp/ensemble has no runs of its own",
        "small.paths: rows: mlp/crd has no runs of its own",
        "small.paths: rows: mlp/none is no row",
    ]
    assert refusal(figures=[], paths={"epochs": [0]}) == ["small.paths: is of a figure: figures has no paths"]
    for epochs in ([2, 1], [1, 1], [-1]):
        (problem,) = refusal(paths={"epochs": epochs})
        assert problem == (
            f"small.paths.epochs={epochs}: must be whole numbers from 0 (as initialised) on, each once, in order"
        )


def test_runs_that_cannot_be_compared_are_refused_before_anything_is_run():
    rows = [*PLAIN["rows"][:1], {"name": "mlp/other", "overrides": ["student=mlp", "method=ce", "dataset=synthetic"]}]
    definition = read_definition("small", {**PLAIN, "rows": rows})
    with pytest.raises(ConfigError) as refused:
        compose_table(definition, [], num_seeds=1)
    assert any(text.startswith("paths: rows: their runs must be of one dataset") for text in refused.value.problems)


def test_a_dry_run_tells_of_the_stopped_runs(tmp_path):
    definition = read_definition("small", {**PLAIN, "rows": PLAIN["rows"][:1], "paths": {"epochs": [0, 1, 3, 4]}})
    overrides = ["runtime.device=cpu", f"runtime.output_root={tmp_path}"]
    table = compose_table(definition, overrides, num_seeds=2)
    last = plan(table, Store(tmp_path)).splitlines()[-1]
    assert last.startswith("paths: 3 runs that stop early, of seed 0, are trained afterwards; what is missing of them ")
    assert not list(tmp_path.iterdir())
