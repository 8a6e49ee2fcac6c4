"""The command, with rows that take a moment."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import reference, steps, sweep, task, worker
from benchmarks.__main__ import main
from benchmarks.rows import ROWS, Row
from benchmarks.timing import UnavailableError
from kdrun.models import cnn

CPU = torch.device("cpu")


def test_a_cheap_row_from_end_to_end(tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert main(["--rows", "soft_labels", "--json", str(path), "--device", "cpu"]) == 0
    written = json.loads(path.read_text())
    assert set(written) == {"machine", "rows"}
    assert {"date", "cpu", "cores", "threads", "amx", "torch", "gpu", "torchdistill"} <= set(written["machine"])
    assert written["machine"]["threads"] == torch.get_num_threads()
    assert written["machine"]["gpu"] is None
    (row,) = written["rows"]
    (figures,) = row["comparisons"]
    assert (figures["reference"], figures["kdrun"], figures["gate"]) == ("released", "fp32", 50)
    assert 5 < figures["low"] <= figures["ratio"] <= figures["high"], "a loop over 64 images against one scatter"
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "| soft_labels " in capsys.readouterr().out


@pytest.mark.parametrize("finished", [0, 1])
def test_an_interrupt_keeps_the_finished_rows(finished, tmp_path, capsys, monkeypatch):
    def interrupt(device, progress):
        raise KeyboardInterrupt

    monkeypatch.setitem(ROWS, "kd_step_resnet18", Row("stopped", interrupt))
    path = tmp_path / "figures.json"
    rows = ["soft_labels", "kd_step_resnet18", "input_pipeline"][1 - finished :]
    assert main(["--rows", ",".join(rows), "--json", str(path), "--device", "cpu"]) == 130
    assert [row["name"] for row in json.loads(path.read_text())["rows"]] == ["soft_labels"][:finished]
    assert path.with_suffix(".png").exists() == bool(finished)
    assert ("| soft_labels " in capsys.readouterr().out) == bool(finished)


def never(device, progress):
    raise AssertionError("measured")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rows", "soft_labels,steps"], "unknown rows: steps; must be of kd_step_mobilenetv2, "),
        (["--json", "nowhere/figures.json"], "no directory nowhere"),
        (["--device", "tpu"], "'tpu' is no device"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_measured(words, told, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.__main__.ROWS", dict.fromkeys(ROWS, Row("nothing", never)))
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


@pytest.fixture
def small(monkeypatch) -> None:
    """A network and a number of steps that take a moment; no torchdistill."""
    monkeypatch.setitem(task.NETWORKS, "cnn", cnn)
    monkeypatch.setitem(task.PAIRS, "cnn", task.Pair("cnn", "cnn", alpha=0.9))
    monkeypatch.setitem(steps.STEPS, "cpu", 1)
    monkeypatch.setitem(sweep.STEPS, "cpu", 2)
    monkeypatch.setattr(steps, "ROUNDS", 1)
    monkeypatch.setattr(sweep, "TEMPERATURES", (2.0, 4.0))
    monkeypatch.setattr(worker, "PYTHON", Path("nowhere"))
    monkeypatch.setattr(reference, "num_workers", lambda: 0)


def test_steps_and_a_sweep_of_a_small_network(small):
    said: list[str] = []
    loops = {"released", "two_lines", "fp32", "bf16"}
    for measure, rounds, sides in (
        (steps.kd_step, 1, loops),
        (steps.mdistiller_step, 1, {"mdistiller", "fp32", "bf16"}),
        (sweep.sweep, 2, loops),
    ):
        found = measure("cnn", CPU, said.append)
        assert {side: len(seconds) for side, seconds in found.times.seconds.items()} == dict.fromkeys(sides, rounds)
        assert all(second > 0 for seconds in found.times.seconds.values() for second in seconds)
        assert set(found.times.skipped) == ({"torchdistill"} if sides == loops else set())
    assert "2 temperatures with kdrun, bf16" in said
    assert found.images == 2 * 2 * 64


@pytest.mark.parametrize(("wrong", "reason"), [("steps", "more than 1 blocks"), ("unknown", "unknown request")])
def test_torchdistills_process_takes_the_steps_and_runs_that_it_is_timed_for(wrong, reason):
    try:
        worker.version()
    except UnavailableError as error:
        pytest.skip(f"torchdistill: {error}")
    with worker.torchdistill("resnet20", CPU, steps=1, blocks=1) as request:
        for what in ("steps", "prepare", "run"):
            request(what)
        with pytest.raises(UnavailableError, match=reason):
            request(wrong)


def test_the_runs_of_a_sweep_share_everything_but_the_temperature():
    specs = sweep.sweep_specs(task.PAIRS["mobilenetv2"], "bf16", 12)
    assert len({spec.run_id for spec in specs}) == len(specs) == 8
    assert len({teacher.run_id for spec in specs for teacher in spec.teachers}) == 1
    assert {(spec.dataset.train_size, spec.recipe.epochs, spec.recipe.batch_size) for spec in specs} == {(768, 1, 64)}
    assert specs[0].teachers[0].epochs_trained == 0, "given, not trained"
