"""`kdrun table` as a user types it, on a small table of its own: run, killed, rendered, refused."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdrun.config.table import compose_table, load_table, shipped_tables
from kdrun.files import write_record
from kdrun.spec.spec import Spec
from kdrun.store.store import Store

ROOT = Path(__file__).parents[1]
FIGURES = """
title: Figures
unavailable: there is no loader
rows:
  - {name: resnet18/ce, published: {top1: 69.84}}
  - {name: resnet18/kd, baseline: resnet18/ce, published: {top1: 70.24}}
"""
MINE = """
title: A small table
source: nobody
runs: 3
num_classes: 10
overrides: [dataset=synthetic, dataset.train_size=96, dataset.test_size=50, recipe.batch_size=32, runtime.device=cpu,
  student=mlp, "student.hidden=[16]"]
controls: [no_kl, untrained]
rows:
  - {name: mlp/ce, overrides: [method=ce], published: {top1: 50.0}}
  - {name: mlp/kd/cnn, overrides: [teacher=cnn, method=kd], baseline: mlp/ce, published: {top1: 60.0, std: 0.5}}
  - {name: mlp/de_kd/cnn@1, overrides: [teacher=cnn, teacher.stop_epoch=1, method=kd], baseline: mlp/ce,
     published: {top1: 59.0, std: 0.4, teacher_top1: 15.0}}
"""


@pytest.fixture(autouse=True)
def mine(here):
    """The table stands in the directory of every test."""
    (here / "mine.yaml").write_text(MINE)
    (here.parent / "figures.yaml").write_text(FIGURES)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Where the table has been run over two seeds, in one go, by a process of its own."""
    directory = tmp_path_factory.mktemp("whole")
    (directory / "mine.yaml").write_text(MINE)
    done = start(directory, "mine.yaml", "--seeds", "2").communicate(timeout=120)
    assert (directory / "outputs/tables/mine/table.csv").exists(), done
    return directory


def start(directory: Path, *words: str) -> subprocess.Popen:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "kdrun", "table", *words]
    return subprocess.Popen(command, cwd=directory, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def table_of(directory: Path) -> bytes:
    return (directory / "outputs" / "tables" / "mine" / "table.csv").read_bytes()


def test_a_killed_table_ends_with_the_same_bytes(finished, here):
    process = start(here, "mine.yaml", "--seeds", "2")
    deadline = time.monotonic() + 60
    while len(list(here.glob("outputs/runs/**/result.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    results = len(list(here.glob("outputs/runs/**/result.json")))
    assert 0 < results < len(list(finished.glob("outputs/runs/**/result.json")))
    output, _ = start(here, "mine.yaml", "--seeds", "2").communicate(timeout=120)
    assert b"(finished before)" in output or b"finished)" in output
    assert table_of(here) == table_of(finished)


def test_a_table_has_its_files_and_every_row(finished):
    directory = finished / "outputs" / "tables" / "mine"
    whole = {"table.md", "table.csv", "table.tex", "table.png", "differences.csv", "differences.png"}
    assert {path.name for path in directory.iterdir()} == whole
    rows = list(csv.DictReader((directory / "table.csv").open()))
    assert [row["row"] for row in rows] == [
        *("mlp/ce", "mlp/kd/cnn", "mlp/kd/cnn/no_kl", "mlp/kd/cnn/untrained", "mlp/de_kd/cnn@1"),
    ]
    results = [json.loads(path.read_text()) for path in finished.glob("outputs/runs/**/result.json")]
    last = {result["run_id"]: result["test"]["last"]["top1"] for result in results}
    for row in rows:
        found = [last[run_id] for run_id in row["run_ids"].split()]
        assert len(found) == int(row["n"]) == 2
        assert float(row["last_mean"]) == pytest.approx(sum(found) / 2)
    lasts = {row["row"]: [last[run_id] for run_id in row["run_ids"].split()] for row in rows}
    pairs = list(csv.DictReader((directory / "differences.csv").open()))
    assert {(pair["row"], pair["less"]) for pair in pairs} == {
        *(("mlp/kd/cnn", f"mlp/kd/cnn/{control}") for control in ("no_kl", "untrained")),
        *(("mlp/de_kd/cnn@1", f"mlp/de_kd/cnn@1/{control}") for control in ("no_kl", "untrained")),
    }
    for pair in pairs:
        control = f"mlp/kd/cnn/{pair['less'].rpartition('/')[2]}"  # the runs that De-KD's controls are, too
        differences = [ours - theirs for ours, theirs in zip(lasts[pair["row"]], lasts[control], strict=True)]
        if pair["figure"] == "ours, last epoch":
            assert float(pair["mean"]) == pytest.approx(sum(differences) / 2)
            assert float(pair["se"]) == pytest.approx(abs(differences[0] - differences[1]) / 2)


def test_rendering_needs_no_data_and_runs_nothing(finished, here, kdrun):
    shutil.copytree(finished / "outputs", here / "outputs")
    expected = table_of(here)
    shutil.rmtree(here / "outputs" / "tables")
    before = sorted(path for path in here.rglob("*") if "tables" not in path.parts)
    code, out, err = kdrun("table", "mine.yaml", "--seeds", "2", "--render-only", "dataset.root=/nowhere")
    assert (code, err) == (0, "")
    assert table_of(here) == expected
    assert out[-1] == "result: outputs/tables/mine/table.csv"
    assert sorted(path for path in here.rglob("*") if "tables" not in path.parts) == before


DERIVED = """
title: Derived
measure: errors
columns: [ensemble, train_top1, selected]
overrides: [dataset=synthetic, dataset.train_size=96, dataset.test_size=50, recipe.batch_size=32, runtime.device=cpu,
  student=mlp, "student.hidden=[16]", dataset.val_fraction=0.2]
rows:
  - {name: mlp/ce, overrides: [method=ce], errors_on: [1, 3]}
  - {name: mlp/kd_ensemble, overrides: [teacher=cnn, method=kd_ensemble, method.num_teachers=2], baseline: mlp/ce}
  - {name: mlp/teachers, derived: {_target_: kdrun.experiment.derived.Ensemble, teachers_of: mlp/kd_ensemble},
     baseline: mlp/ce, errors_on: [1, 3]}
  - {name: mlp/both, derived: {_target_: kdrun.experiment.derived.Ensemble, of: [mlp/ce, mlp/kd_ensemble]},
     baseline: mlp/ce}
"""


def test_derived_rows_are_computed_once_rendered_without_data_and_told_where_damaged(here, kdrun):
    (here / "mine.yaml").write_text(DERIVED)
    words = ("table", "mine.yaml", "--seeds", "2")
    assert "and 4 only as parts of rows" in kdrun(*words, "--rows", "mlp/teachers", "--dry-run")[1][-1]
    # the teachers alone, and the baseline: not the run that they teach
    assert kdrun(*words, "--rows", "mlp/teachers")[0] == 0
    assert len(list(here.glob("outputs/runs/**/result.json"))) == 6
    assert kdrun(*words)[0] == 0
    assert len(list(here.glob("outputs/runs/**/result.json"))) == 8
    # two of teachers, two of both rows, two of the baseline by class, and the ensembles of the two rows
    assert len(list(here.glob("outputs/derived/*.json"))) == 8
    computed = table_of(here)
    rows = {row["row"]: row for row in csv.DictReader(computed.decode().splitlines())}
    assert {row["measure"] for row in rows.values()} == {"errors"}
    assert [row["n"] for row in rows.values()] == ["2"] * 4
    results = [json.loads(path.read_text()) for path in here.glob("outputs/runs/*/*/ce-*/result.json")]
    last = {result["run_id"]: result["test"]["last"]["top1"] for result in results}
    errors = [50 * (100 - last[run_id]) / 100 for run_id in rows["mlp/ce"]["run_ids"].split()]
    assert float(rows["mlp/ce"]["last_mean"]) == pytest.approx(sum(errors) / 2)
    assert 0 < float(rows["mlp/ce"]["errors_on_classes_mean"]) <= float(rows["mlp/ce"]["last_mean"])
    assert rows["mlp/both"]["difference_last_n"] == "2"
    for path in here.glob("outputs/runs/**/student.safetensors"):
        path.unlink()
    code, _, err = kdrun(*words, "--render-only", "dataset.root=/nowhere")
    assert (code, err, table_of(here)) == (0, "", computed)
    key = rows["mlp/both"]["derived"].split()[0]
    (here / "outputs" / "derived" / f"{key}.json").write_text("{}\n")
    code, _, err = kdrun(*words, "--render-only")
    assert code == 1
    assert err.startswith(f"kdrun: outputs/derived/{key}.json is not whole")
    assert len(err.splitlines()) == 1


def test_published_runs_of_another_precision_are_rendered(finished, here, kdrun):
    """What a GPU computed in bf16 stands in the table of a machine that would compute in fp32."""
    entries = compose_table(load_table("mine.yaml"), [], num_seeds=1).entries
    for entry in entries[:2]:
        own, other = entry.specs[0], entry.specs[0].at_precision("bf16")
        result = Store(finished / "outputs").run(own).result() | {**other.identity, "precision": "bf16"}
        place = here / "shelf" / other.dataset.name / other.student.name / f"{result['method']['name']}-{other.run_id}"
        place.mkdir(parents=True)
        write_record(place / "result.json", result)
    code, out, _ = kdrun("table", "mine.yaml", "--render-only", "--published", "shelf", "--seeds", "1")
    assert code == 0
    assert "bf16" in "\n".join(out)
    rows = {row["row"]: row for row in csv.DictReader(table_of(here).decode().splitlines())}
    assert [rows[name]["n"] for name in ("mlp/ce", "mlp/kd/cnn", "mlp/kd/cnn/no_kl")] == ["1", "1", "0"]
    kdrun("table", "mine.yaml", "--render-only", "--published", "shelf", "--seeds", "1", "runtime.precision=fp32")
    assert all(row["n"] == "0" for row in csv.DictReader(table_of(here).decode().splitlines()))


def test_dry_run_lists_every_run_with_its_cost_and_writes_nothing(here, kdrun):
    code, out, err = kdrun("table", "mine.yaml", "--dry-run")
    assert (code, err) == (0, "")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out if line.startswith("| ")]
    header, *rows = cells
    assert header == ["run", "objective", "params M", "MACs M", "epochs", "batch", "time each", "runs"]
    assert [row[0] for row in rows] == [
        *("teacher cnn", "teacher cnn at epoch 0 of 2", "teacher cnn at epoch 1 of 2"),
        *("mlp/ce", "mlp/kd/cnn", "mlp/kd/cnn/no_kl", "mlp/kd/cnn/untrained", "mlp/de_kd/cnn@1"),
    ]
    assert [row[4] for row in rows] == ["2", "0", "1", "2", "2", "2", "2", "2"]
    params = 768 * 16 + 16 + 16 * 10 + 10
    assert all(row[2:4] == [f"{params / 1e6:.3f}", f"{768 * 16 / 1e6:.2f}"] for row in rows[3:])
    assert out[-1].startswith("24 runs, 9 of them only as teachers; what is missing takes about ")
    assert sorted(path.name for path in here.iterdir()) == ["mine.yaml"]


def test_an_override_is_said_to_be_left_aside_where_no_row_has_a_use_for_it(kdrun):
    override = "teacher.recipe.epochs=2"
    words = ("table", "mine.yaml", "--dry-run", "--seeds", "1", override, "recipe.batch_size=200")
    left = f"method ce has no use for a teacher: {override} is left aside"
    own = "teacher.recipe.batch_size=200: there are about 96 images"
    for rows, (ours, theirs) in (((), (False, True)), (("--rows", "mlp/ce"), (True, False))):
        code, out, _ = kdrun(*words, *rows)
        assert (code, left in out, any(line.startswith(own) for line in out)) == (0, ours, theirs)


def test_tables_are_listed(kdrun):
    code, out, _ = kdrun("table")
    assert code == 0
    width = max(map(len, shipped_tables())) + 2
    assert f"{'tfkd_t1':<{width}}Normal KD and Re-KD on CIFAR-100" in out
    assert any(line.startswith("tfkd_t7 ") and line.endswith("on ImageNet") for line in out)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("tfkd_tt1",), "did you mean tfkd_t1?"),
        (("mine.yaml", "recipe.epoch=3", "student=cnn"), "did you mean epochs?"),
        (("../figures.yaml",), "table figures cannot be run: there is no loader; use --render-only"),
        (("mine.yaml", "--rows", ""), "--rows : no such row"),
        (("mine.yaml", "--published", "gone"), "--published gone: no such directory"),
        (("gone.yaml",), "gone.yaml: no such file"),
        (("../figures.yaml", "--render-only", "recipe.epochs=3"), "table figures is of published figures only"),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(here, kdrun, words, text):
    code, out, err = kdrun("table", *words)
    assert (code, out) == (2, [])
    assert text in err
    assert sorted(path.name for path in here.iterdir()) == ["mine.yaml"]


def test_a_table_that_cannot_be_run_shows_what_is_published(here, kdrun):
    code, out, _ = kdrun("table", "../figures.yaml", "--render-only")
    assert code == 0
    text = "\n".join(out)
    assert "70.24" in text
    assert "there is no loader" in text


def test_a_damaged_published_result_is_told_in_a_line(here, kdrun):
    entries = compose_table(load_table("mine.yaml"), [], num_seeds=1).entries
    place = here / "shelf" / "synthetic" / "mlp" / f"ce-{entries[0].specs[0].run_id}"
    place.mkdir(parents=True)
    (place / "result.json").write_text("{")
    code, _, err = kdrun("table", "mine.yaml", "--render-only", "--published", "shelf")
    assert code == 1
    assert err.startswith("kdrun: shelf/synthetic/mlp/ce-")
    assert "is not readable JSON" in err
    assert len(err.splitlines()) == 1


def test_a_failed_run_is_told_and_the_rest_is_rendered(here, kdrun, monkeypatch):
    from kdrun.methods import KD

    def failing(self, batch, teacher):
        raise RuntimeError("no memory")

    monkeypatch.setattr(KD, "forward", failing)
    code, out, err = kdrun("table", "mine.yaml", "--seeds", "1", "--rows", "mlp/kd/cnn*")
    assert code == 1
    assert "mlp/kd/cnn seed=0: failed: RuntimeError: no memory" in err
    assert "2 of 4 runs failed" in err
    rows = {row["row"]: row for row in csv.DictReader(table_of(here).decode().splitlines())}
    assert [(name, row["n"], row["missing"]) for name, row in rows.items()] == [
        ("mlp/ce", "1", "0"),
        ("mlp/kd/cnn", "0", "1"),
        ("mlp/kd/cnn/no_kl", "1", "0"),
        ("mlp/kd/cnn/untrained", "0", "1"),
    ]
    assert any("2 of 4 runs" in line for line in out)


def test_missing_runs_with_a_result_of_an_older_semantics_are_told(here, kdrun):
    words = ("mine.yaml", "--seeds", "1", "--rows", "mlp/ce")
    assert kdrun("table", *words)[0] == 0
    (run,) = here.glob("outputs/runs/synthetic/mlp/ce-*")
    spec = Spec.from_canonical(json.loads((run / "spec.json").read_text())).at_semantics(1)
    run.rename(run.with_name(f"ce-{spec.run_id}"))
    code, out, _ = kdrun("table", *words, "--render-only")
    assert code == 0
    assert "1 of the missing runs have results of an older semantics, left out here: see kdrun ls" in out
