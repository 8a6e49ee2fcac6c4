"""Interrupted, failed and diverged runs: a true status behind, and on to the same bits as without the accident."""

import contextlib
import inspect
from dataclasses import replace

import pytest
import torch

from kdrun import files, methods
from kdrun.methods import CE, Objective
from kdrun.spec.components import method_class
from kdrun.store import checkpoint
from kdrun.store import run as run_files
from kdrun.training import precision
from kdrun.training.trainer import DivergedError
from tests.experiment.conftest import LAW, RECIPE


@contextlib.contextmanager
def breaking(method: type, error: BaseException, *, epoch: int, step: int):
    """Within it, this step of training by a method raises."""
    forward = method.forward

    def broken(self, batch, teacher):
        if (batch.epoch, batch.step) == (epoch, step):
            raise error
        return forward(self, batch, teacher)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "forward", broken)
        yield


METHODS = list(methods.shipped_methods().values())
STAGED = [kind for kind in METHODS if "stage1_epochs" in inspect.signature(kind).parameters]
FAMILIES = {("kd", 1), ("fsp", 1), ("fsp", 2), ("fsp", 3), ("crd", 1), ("dml", 1), ("kd_ensemble", 1), ("sum", 1)}
"""Plain, two stages, a memory, online peers, several teachers, several terms."""
INTERRUPTED = [(kind.name, epoch) for kind in METHODS for epoch in ((1, 2, 3) if kind in STAGED else (1,))]
"""Each method, with an epoch (from 0) in whose middle it is interrupted: in both stages and at their border."""


@pytest.mark.parametrize(
    ("name", "epoch"),
    [pytest.param(*each, marks=[] if each in FAMILIES else pytest.mark.slow) for each in INTERRUPTED],
)
def test_interrupted_run_resumes_to_the_same_bits(shared_lab, name, epoch):
    lab = shared_lab
    spec = lab.every(name)
    whole, run = lab.execute(spec, "whole"), lab.run(spec)
    assert run.remove(), "of an interruption in another epoch"
    interruption = breaking(method_class(spec.method), KeyboardInterrupt(), epoch=epoch, step=2)
    with interruption, pytest.raises(KeyboardInterrupt):
        lab.execute(spec)
    status = run.status()
    assert (status["state"], status["error"]) == ("interrupted", "KeyboardInterrupt: ")
    assert len(run.rows()) == epoch
    assert not run.finished
    outcome = lab.execute(spec)
    assert not outcome.reused
    assert lab.bits(run) == lab.bits(whole.run)
    assert outcome.result["test"] == whole.result["test"]
    assert lab.images_trained_on(outcome) == spec.total_epochs * 66, "those of the first process count"
    assert (run.status()["state"], run.status()["started"]) == ("finished", status["started"])


ALL_OPTIONS = {
    **{"optimizer": "adamw", "weight_decay": 0.05, "decay_norm_and_bias": False, "clip_norm": 1.0, "lr": 0.01},
    **{"schedule": "cosine", "min_lr": 1e-4, "label_smoothing": 0.1, "accumulate": 2, "ema_decay": 0.9},
    "augmentation": replace(LAW, mixup_alpha=0.8, cutmix_alpha=1.0),
}


@pytest.mark.parametrize(
    ("name", "epoch", "changes"),
    [
        ("kd", 1, {}),
        pytest.param("dml", 1, {}, marks=pytest.mark.slow),
        ("weight_distillation", 2, {}),
        pytest.param("weight_distillation", 2, {"evaluate_every": None}, marks=pytest.mark.slow),
        pytest.param("fsp", 3, {}, marks=pytest.mark.slow),
    ],
)
def test_a_run_with_all_options_of_the_recipe_resumes_and_is_alone_as_in_lockstep(lab, name, epoch, changes):
    lab = replace(lab, recipe=replace(lab.recipe, **ALL_OPTIONS, **changes))
    spec = lab.every(name)
    interruption = breaking(method_class(spec.method), KeyboardInterrupt(), epoch=epoch, step=2)
    with interruption, pytest.raises(KeyboardInterrupt):
        lab.execute(spec)
    other = replace(RECIPE, augmentation=lab.recipe.augmentation)
    together = lab.execute_all([spec, lab.plain("resnet8", recipe=other)], "together")
    assert [outcome.result["train"]["lockstep"] for outcome in together] == [2, 2]
    assert lab.bits(lab.execute(spec).run) == lab.bits(together[0].run) == lab.alone(spec)


def test_failure_in_the_teacher_resumes_the_teacher(lab, trained):
    whole = lab.execute(lab.taught(), "whole").run
    failure = r"its teacher .*cnn/ce-\w+ failed: RuntimeError: no memory"
    with breaking(CE, RuntimeError("no memory"), epoch=2, step=0), pytest.raises(RuntimeError, match=failure):
        lab.execute(lab.taught())
    teacher, student = lab.run(lab.teacher), lab.run(lab.taught())
    assert (teacher.status()["state"], teacher.status()["error"]) == ("failed", "RuntimeError: no memory")
    assert len(teacher.rows()) == 2
    assert "Traceback" in (teacher.directory / "kdrun.log").read_text()
    assert not student.directory.exists(), "the student has not begun"
    trained.clear()
    lab.execute(lab.taught())
    assert trained == ["ce", "kd"]
    assert lab.bits(teacher) == lab.bits(lab.run(lab.teacher, "whole"))
    assert lab.bits(student) == lab.bits(whole)


def test_interruption_after_the_last_epoch_trains_nothing_again(lab, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "export_weights", stopped)
        with pytest.raises(KeyboardInterrupt):
            lab.execute(lab.plain())
    assert lab.run(lab.plain()).status()["state"] == "interrupted"
    with breaking(CE, AssertionError("trained again"), epoch=2, step=0):
        outcome = lab.execute(lab.plain())
    assert lab.bits(outcome.run) == lab.alone(lab.plain())


@pytest.mark.parametrize(("name", "epoch"), [("best.pt", 1), ("last.pt", 2), ("metrics.jsonl", 2)])
def test_interruption_between_the_files_of_an_epoch_resumes_to_the_same_bits(lab, monkeypatch, name, epoch):
    """The epoch has this file, and not what is written after it."""
    written = []

    def stopping(path, content):
        files.write_atomically(path, content)
        written.append(path.name)
        if written.count(name) == epoch:
            raise KeyboardInterrupt

    whole = lab.execute(lab.plain("cnn"), "whole").run
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", stopping)
        patch.setattr(run_files, "write_atomically", stopping)
        with pytest.raises(KeyboardInterrupt):
            lab.execute(lab.plain("cnn"))
    run = lab.execute(lab.plain("cnn")).run
    assert lab.bits(run) == lab.bits(whole)
    best, expected = (checkpoint.load(each.best_checkpoint, torch.device("cpu")) for each in (run, whole))
    assert best["epoch"] == expected["epoch"]
    assert all(torch.equal(best["method"][key], tensor) for key, tensor in expected["method"].items())


def test_resumed_run_keeps_its_number_of_threads(lab):
    """One and two threads differ in the last bits."""
    run = lab.run(lab.plain())
    run.open(config=None)
    run.write_status("interrupted", choices={"threads": 2})
    result = lab.execute(lab.plain(), threads=1).result
    assert (result["environment"]["threads"], run.status()["choices"]["threads"]) == (2, 2)
    assert lab.execute(lab.plain(), "fresh", threads=1).result["environment"]["threads"] == 1


def test_resumed_run_keeps_its_memory_layout(lab, monkeypatch):
    """An older run, whose choices have none, continues in channels_last memory alone, as does its teacher."""
    used = []
    monkeypatch.setattr(precision, "MANY_CHANNELS", 8)
    monkeypatch.setattr(precision, "_small_map_in_nchw", lambda conv, inputs: used.append(conv.training))
    lab.execute(lab.teacher)
    assert used
    lab.execute(lab.taught("cnn"), "outputs")
    assert set(used) == {True, False}, "the student's steps, and the teacher"
    older = lab.run(lab.taught("cnn", temperature=9.0))
    older.open(config=None)
    older.write_status("interrupted", choices={"threads": 1, "compile": False, "cuda_graphs": False})
    used.clear()
    assert not lab.execute(older.spec).result["environment"]["small_maps_nchw"]
    assert not used


@pytest.mark.parametrize("plan", [{}, {"data gradient, input 64x3x8x8": "zero_stuffed"}])
def test_run_that_began_with_planned_convolutions_is_refused_if_any_was_planned(lab, plan):
    """Older runs record `conv_plan`, empty unless in bf16 on a CPU."""
    run = lab.run(lab.plain())
    run.open(config=None)
    run.write_status("interrupted", choices={"threads": 1, "compile": False, "cuda_graphs": False, "conv_plan": plan})
    if plan:
        with pytest.raises(RuntimeError, match=f"conv_plan.*{run.spec.run_id}"):
            lab.execute(lab.plain())
        assert not run.last_checkpoint.exists()
    else:
        assert lab.bits(lab.execute(lab.plain()).run) == lab.bits(lab.execute(lab.plain(), "fresh").run)


def test_divergence_is_a_state_of_its_own_and_keeps_the_last_good_epoch(lab):
    forward = CE.forward

    def diverging(self, batch, teacher):
        objective = forward(self, batch, teacher)
        factor = float("nan") if (batch.epoch, batch.step) == (1, 3) else 1.0
        return Objective(objective.loss * factor, objective.logits, objective.terms)

    run = lab.run(lab.plain())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CE, "forward", diverging)
        with pytest.raises(DivergedError, match=r"epoch 2, step 4 \(learning rate .*: loss nan"):
            lab.execute(lab.plain())
    assert run.status()["state"] == "diverged"
    assert not run.finished
    state = checkpoint.load(run.last_checkpoint, torch.device("cpu"))
    assert [row["epoch"] for row in state["rows"]] == [1]
    assert all(tensor.isfinite().all() for tensor in state["method"].values())
    assert lab.bits(lab.execute(lab.plain()).run) == lab.alone(lab.plain())


@pytest.mark.parametrize("lr", [1e4, 1e12, 1e37])
def test_absurd_learning_rate_diverges_and_never_fails_otherwise(lab, lr):
    """Whichever step or evaluation the first overflow falls into; here an epoch is one step."""
    spec = lab.plain(recipe=replace(lab.recipe, lr=lr, warmup_epochs=0, batch_size=66))
    with contextlib.suppress(DivergedError):
        lab.execute(spec)
    assert lab.run(spec).status()["state"] == ("finished" if lr == 1e4 else "diverged")


def test_a_resumed_run_remembers_the_best_epoch_before_the_interruption(lab, monkeypatch):
    said = iter([90.0, 70.0, 80.0])
    monkeypatch.setattr("kdrun.training.trainer.evaluate", lambda *_, **__: {"top1": next(said), "nll": 1.0})
    with breaking(CE, KeyboardInterrupt(), epoch=1, step=2), pytest.raises(KeyboardInterrupt):
        lab.execute(lab.plain())
    outcome = lab.execute(lab.plain())
    assert (outcome.result["test"]["best"]["epoch"], outcome.result["test"]["best"]["top1"]) == (1, 90.0)
    assert checkpoint.load(outcome.run.best_checkpoint, torch.device("cpu"))["epoch"] == 1
    assert [row["epoch"] for row in outcome.run.rows()] == [1, 2, 3]
