"""From a spec to its files: what a run leaves behind, what a spec can ask for, and how runs leave each other alone."""

import contextlib
import hashlib
import json
import os
import traceback
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import torch

from kdrun import log as log_module
from kdrun.data import DataError
from kdrun.experiment import runner
from kdrun.experiment.build import build_student
from kdrun.experiment.datasets import prepare_splits
from kdrun.experiment.runtime import Runtime
from kdrun.methods import CE
from kdrun.metrics import classification_metrics
from kdrun.seeds import mix
from kdrun.spec.spec import Spec
from kdrun.store import checkpoint
from kdrun.store.checkpoint import read_weights
from kdrun.store.store import Store
from kdrun.training import precision
from kdrun.training.evaluation import predict

CPU = torch.device("cpu")


def test_result_has_schema_1(finished):
    result = json.loads(finished.run.result_path.read_text())
    digest = result.pop("sha256")
    assert digest == hashlib.sha256(json.dumps(result, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert result == finished.result == finished.run.result()
    assert set(result) == {
        *("schema", "run_id", "spec_sha256", "status", "semantics", "dataset", "method", "teachers", "seed"),
        *("precision", "epochs", "student", "test", "shares", "train", "environment", "versions", "finished"),
        "metrics_sha256",
    }
    facts = {"schema": 1, "run_id": finished.run.spec.run_id, "status": "finished", "dataset": "synthetic"}
    assert result.items() >= {**facts, "seed": 0, "precision": "fp32", "epochs": 3}.items()
    # Options at their default are written out.
    method = {"name": "kd", "temperature": 2.0, "alpha": 0.9, "kl_reduction": "batchmean", "multiplier": 1.0}
    assert result["method"] == {**method, "standardize": False}
    student = result["student"]
    weights, biases = 64 * 32 + 32 * 4, 32 + 4
    assert (student["name"], student["params"], student["macs"]) == ("mlp", weights + biases, weights)
    assert set(result["train"]) == {"seconds", "images_per_second", "peak_memory_bytes", "lockstep", "extra_params"}
    assert result["train"]["lockstep"] == 1
    assert result["train"]["seconds"] * result["train"]["images_per_second"] == pytest.approx(3 * 66)
    assert set(result["environment"]) == {
        *("torch", "cuda", "device", "threads", "git", "platform"),
        *("compile", "cuda_graphs", "small_maps_nchw", "ranks"),
    }
    assert result["environment"]["threads"] == 1
    metrics = (finished.run.directory / "metrics.jsonl").read_bytes()
    assert result["metrics_sha256"] == hashlib.sha256(metrics).hexdigest()
    assert datetime.fromisoformat(result["finished"]).utcoffset() == timedelta(0)
    assert 0 <= (datetime.now(UTC) - datetime.fromisoformat(result["finished"])).total_seconds() < 3600


def test_metrics_have_one_row_per_epoch_and_no_times(finished):
    lines = (finished.run.directory / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert set(row) == {"run_id", "epoch", "lr", "train", "shares", "test"}
        assert set(row["shares"]) == {"ce", "kd"}
        assert set(row["train"]) == {"loss", "ce", "kd", "top1", "teacher_top1", "agreement"}
        assert set(row["test"]) == {"top1", "top5", "nll", "ece", "confidence"}
        assert row["train"]["loss"] == pytest.approx(0.1 * row["train"]["ce"] + 0.9 * row["train"]["kd"], rel=1e-5)
    top1 = [row["test"]["top1"] for row in rows]
    best = rows[top1.index(max(top1))]
    assert finished.result["test"] == {
        "last": {"epoch": 3, **rows[-1]["test"]},
        "best": {"epoch": best["epoch"], **best["test"]},
    }


def metrics_of(state: dict[str, torch.Tensor], spec: Spec, root) -> dict[str, float]:
    """Test metrics of these weights, computed anew."""
    network = build_student(spec.student, spec.dataset)
    network.load_state_dict(state)
    test = prepare_splits(spec.dataset, Runtime(device=CPU, data_root=root, output_root=root)).test
    return classification_metrics(predict(network, test, contextlib.nullcontext()), test.labels)


def test_student_file_is_the_network_that_the_result_is_about(finished, tmp_path):
    state, digest = read_weights(finished.run.weights)
    assert digest == finished.result["student"]["weights_sha256"]
    metrics = metrics_of(state, finished.run.spec, tmp_path)
    assert finished.result["test"]["last"] == {"epoch": 3, **metrics}
    assert finished.result["student"]["probe_top1"] == metrics["top1"], "the probe is the whole test set here"


def test_best_checkpoint_is_that_of_the_best_epoch(finished, tmp_path):
    best = checkpoint.load(finished.run.best_checkpoint, CPU)
    state = {name.removeprefix("student."): tensor for name, tensor in best["method"].items()}
    metrics = metrics_of(state, finished.run.spec, tmp_path)
    assert finished.result["test"]["best"] == {"epoch": best["epoch"], **metrics}


def test_finished_run_is_returned_as_it_is(lab, trained):
    finished = lab.execute(lab.taught())
    trained.clear()
    before = {path: path.stat().st_mtime_ns for path in lab.root.rglob("*")}
    again = lab.execute(lab.taught())
    assert (finished.reused, again.reused) == (False, True)
    assert again.result == finished.result
    assert trained == []
    assert {path: path.stat().st_mtime_ns for path in lab.root.rglob("*")} == before, "nothing was written"


def test_stopped_run_is_the_beginning_of_the_full_schedule(lab):
    """De-KD: a poor teacher is the network as it is then, not one whose schedule was squeezed."""
    whole, stopped = lab.execute(lab.plain()), lab.execute(lab.plain(stop_epoch=2))
    assert stopped.run.rows() == whole.run.rows()[:2]
    # 3 epochs of 5 steps: the rate falls at steps 4 (4.5, to even), 9 and 12; told is that of an epoch's last step.
    rates = [row["lr"] for row in whole.run.rows()]
    assert rates == pytest.approx([0.4 / 8 * 0.2**times for times in (1, 2, 3)])
    assert (stopped.result["epochs"], stopped.result["test"]["last"]["epoch"]) == (2, 2)
    assert stopped.run.directory != whole.run.directory
    squeezed = lab.execute(lab.plain(recipe=replace(lab.recipe, epochs=2)))
    assert squeezed.run.rows() != stopped.run.rows()
    student = lab.execute(lab.taught(teacher=lab.plain(stop_epoch=2)))
    assert student.result["teachers"][0]["epochs"] == 2


def test_a_longer_run_goes_on_from_a_shorter_one_to_the_same_bits(lab):
    """A teacher stopped early is the beginning of its full training: what it trained is not trained again."""
    expected = lab.execute(lab.plain("cnn"), "alone").run
    lab.execute(lab.plain("cnn", stop_epoch=1))
    lab.execute(lab.plain("cnn", stop_epoch=2))
    lab.execute(lab.plain("cnn", stop_epoch=2, seed=1))
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        forward = CE.forward
        patch.setattr(CE, "forward", lambda self, batch, _: steps.append(batch.epoch) or forward(self, batch, _))
        whole = lab.execute(lab.plain("cnn"))
    assert set(steps) == {2}, "only the third epoch was left"
    assert lab.bits(whole.run) == lab.bits(expected)
    assert lab.images_trained_on(whole) == 3 * 66
    best, alone = (checkpoint.load(run.best_checkpoint, torch.device("cpu")) for run in (whole.run, expected))
    assert best["epoch"] == alone["epoch"]
    assert all(torch.equal(best["method"][name], tensor) for name, tensor in alone["method"].items())


def test_an_unfinished_or_other_run_is_no_beginning(lab):
    finished = lab.execute(lab.plain("cnn", stop_epoch=1)).run
    store = Store(lab.root / "outputs")
    choices = finished.status()["choices"]
    assert store.longest_beginning(lab.plain("cnn"), choices).directory == finished.directory
    assert store.longest_beginning(lab.plain("cnn"), {**choices, "threads": 7}) is None
    for other in (
        lab.plain("cnn", seed=1),
        lab.plain("cnn", stop_epoch=1),
        lab.plain("cnn", method=lab.by("LSR")),
        lab.plain("cnn", recipe=replace(lab.recipe, epochs=4)),
        lab.plain("resnet20"),
    ):
        assert store.longest_beginning(other, choices) is None
    finished.result_path.unlink()
    assert store.longest_beginning(lab.plain("cnn"), choices) is None


def test_stopped_at_epoch_0_is_the_untrained_network(lab):
    outcome = lab.execute(lab.plain("cnn", stop_epoch=0, seed=5))
    torch.manual_seed(mix(5, "init"))
    expected = build_student(outcome.run.spec.student, lab.dataset).state_dict()
    found, _ = read_weights(outcome.run.weights)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert outcome.result["epochs"] == outcome.result["test"]["best"]["epoch"] == 0
    assert outcome.result["test"]["last"] == {"epoch": 0, **metrics_of(expected, outcome.run.spec, lab.root)}
    assert outcome.result["train"]["images_per_second"] is None
    assert outcome.run.rows() == []


def test_held_out_split_selects_an_epoch_and_tells_its_test_accuracy(lab):
    outcome = lab.execute(lab.plain("cnn", dataset=replace(lab.dataset, val_fraction=0.25)))
    rows = outcome.run.rows()
    assert set(rows[0]) == {"epoch", "lr", "train", "val", "test"}
    top1 = [row["val"]["top1"] for row in rows]
    selected = rows[top1.index(max(top1))]
    assert outcome.result["val"] == {
        "last": {"epoch": 3, **rows[-1]["val"]},
        "selected": {"epoch": selected["epoch"], **selected["val"], "test": selected["test"]},
    }
    # 4 of the 17, 17, 16 and 16 images of each class.
    assert lab.images_trained_on(outcome) == 3 * (66 - 16)
    assert all((share * 16 / 100).is_integer() for share in top1)


def test_dataset_that_is_not_what_the_spec_says_fails_before_training(lab, trained):
    spec = lab.plain(dataset=replace(lab.dataset, identity="content-sha256:" + "0" * 64))
    with pytest.raises(DataError, match="its images have changed"):
        lab.execute(spec)
    assert lab.run(spec).status()["state"] == "failed"
    assert trained == []


def test_runs_of_one_runner_are_what_each_is_alone(lab):
    half = replace(lab.dataset, train_fraction=0.5)
    specs = [lab.plain("cnn", seed=1), lab.plain(dataset=half), lab.taught("resnet8"), lab.plain()]
    shared = lab.runner("shared")
    for spec in specs:
        shared.execute(spec)
    for i, spec in enumerate(specs):
        alone = lab.execute(spec, f"alone{i}").run
        assert lab.bits(alone) == lab.bits(shared.store.run(spec))
    assert len({shared.store.run(spec).weights.read_bytes() for spec in specs}) == len(specs)


def test_threads_follow_from_the_size_of_a_runs_step_whatever_ran_before(lab, monkeypatch):
    torch.set_num_threads(2)
    shared = lab.runner()
    threads = []
    for small_step_macs in (10**9, 1, 10**9):
        monkeypatch.setattr(precision, "SMALL_STEP_MACS", small_step_macs)
        outcome = shared.execute(lab.plain(seed=len(threads), stop_epoch=1))
        threads.append((outcome.result["environment"]["threads"], outcome.run.status()["choices"]["threads"]))
    assert threads == [(1, 1), (2, 2), (1, 1)]


def test_processes_that_want_the_same_run_train_it_once(lab, monkeypatch):
    """Three students of one teacher in three processes, two of them the same."""
    marks = lab.root / "trained"
    fit = runner.fit

    def recording(members, *arguments, **options):
        with marks.open("a") as file:
            file.writelines(f"{member.training.method.name}\n" for member in members)
        fit(members, *arguments, **options)

    monkeypatch.setattr(runner, "fit", recording)
    specs = [lab.taught(temperature=1.0), lab.taught(temperature=1.0), lab.taught(temperature=2.0)]
    children = []
    for spec in specs:
        child = os.fork()
        if child == 0:
            try:
                lab.execute(spec)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert sorted(marks.read_text().split()) == ["ce", "kd", "kd"]
    assert lab.bits(lab.run(specs[0])) == lab.alone(specs[0])


def test_plan_counts_runs_and_teachers_once(lab):
    shared = lab.runner()
    specs = [lab.taught(temperature=1.0), lab.taught(temperature=2.0), lab.taught(temperature=1.0), lab.plain()]
    assert shared.plan(specs) == "3 runs (0 finished), taught by 1 teacher (0 finished)"
    shared.execute(specs[0])
    assert shared.plan(specs) == "3 runs (1 finished), taught by 1 teacher (1 finished)"
    assert [run.directory for run in shared.teachers(specs[0])] == [lab.run(lab.teacher).directory]


@pytest.fixture
def console():
    """The console of the command line, put away afterwards."""
    log = log_module.log
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    log_module.set_up_console()
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)


def test_one_plain_line_per_epoch_on_the_console_and_in_the_log(lab, console, capsys):
    run = lab.runner().execute(lab.taught(), config="seed: 0\n").run
    lines = [line for line in capsys.readouterr().out.splitlines() if " epoch " in line]
    assert [line.split("  ")[0] for line in lines] == [
        *(f"teacher cnn ce epoch {epoch}/3" for epoch in (1, 2, 3)),
        *(f"student mlp kd epoch {epoch}/3" for epoch in (1, 2, 3)),
    ]
    row = run.rows()[1]
    for part in (f"kd {row['train']['kd']:.3f}", f"test {row['test']['top1']:.1f}%", "img/s", "left 00:00"):
        assert part in lines[4]
    log = (run.directory / "kdrun.log").read_text()
    assert [line in log for line in lines] == [False] * 3 + [True] * 3, "the teacher's are in its own"
    assert (run.directory / "config.yaml").read_text() == "seed: 0\n"
    assert not (lab.run(lab.teacher).directory / "config.yaml").exists()
