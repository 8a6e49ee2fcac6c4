"""The command, with rows that take a moment."""

import json

import pytest
import torch

from benchmarks import steps, sweep, task
from benchmarks.__main__ import main
from benchmarks.rows import ROWS, Row
from kdrun.models import cnn

CPU = torch.device("cpu")


def test_a_cheap_row_from_end_to_end(tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert main(["--rows", "soft_labels", "--json", str(path), "--device", "cpu"]) == 0
    written = json.loads(path.read_text())
    assert set(written) == {"machine", "rows"}
    assert {"cpu", "cores", "threads", "amx", "torch", "gpu"} <= set(written["machine"])
    assert written["machine"]["threads"] == torch.get_num_threads()
    assert written["machine"]["gpu"] is None
    (row,) = written["rows"]
    assert {"name", "ratio", "low", "high", "gate", "aim"} <= set(row)
    assert (row["name"], row["gate"], row["aim"]) == ("soft_labels", 50, 68)
    assert 5 < row["low"] <= row["ratio"] <= row["high"], "a loop over 64 images against one scatter"
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "[1/1] soft_labels: first blocks" in out
    assert "| soft_labels | soft labels of Tf-KD_reg |" in out


def never(device, progress):
    raise AssertionError("measured")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rows", "soft_labels,steps"], "unknown rows: steps; must be of input_pipeline, "),
        (["--json", "nowhere/figures.json"], "no directory nowhere"),
        (["--device", "tpu"], "'tpu' is no device"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_measured(words, told, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.__main__.ROWS", dict.fromkeys(ROWS, Row("nothing", never, None, None)))
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


@pytest.fixture
def small(monkeypatch) -> None:
    """A network and a number of steps that take a moment."""
    monkeypatch.setitem(task.NETWORKS, "cnn", cnn)
    monkeypatch.setitem(task.ALPHA, "cnn", 0.9)
    monkeypatch.setattr(task, "TEACHER", "cnn")
    monkeypatch.setitem(steps.STEPS, "cpu", 1)
    monkeypatch.setitem(sweep.STEPS, "cpu", 2)
    monkeypatch.setattr(steps, "PAIRS", 1)
    monkeypatch.setattr(sweep, "TEMPERATURES", (2.0, 4.0))
    steps.choose_precision.cache_clear()


def test_steps_and_a_sweep_of_a_small_network(small):
    said: list[str] = []
    step = steps.kd_step("cnn", CPU, said.append)
    assert 0 < step.low <= step.ratio <= step.high
    assert step.remark.split(";")[0] in ("fp32", "bf16")
    whole = sweep.sweep("cnn", CPU, said.append)
    assert 0 < whole.low <= whole.ratio <= whole.high
    assert "2 temperatures with kdrun" in said


def test_the_runs_of_a_sweep_share_everything_but_the_temperature():
    specs = sweep.sweep_specs("mobilenetv2", "bf16", 12)
    assert len({spec.run_id for spec in specs}) == len(specs) == 8
    assert len({teacher.run_id for spec in specs for teacher in spec.teachers}) == 1
    assert {(spec.dataset.train_size, spec.recipe.epochs, spec.recipe.batch_size) for spec in specs} == {(768, 1, 64)}
    assert specs[0].teachers[0].epochs_trained == 0, "given, not trained"
