"""Shares of the gradient: against gradients computed one term at a time, and without an effect on the training."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.methods import Batch, Method, Objective
from kdrun.methods.base import StudentOutput
from kdrun.training import step as step_module
from kdrun.training.optimisation import build_optimizer
from kdrun.training.precision import autocast
from kdrun.training.step import Step
from kdrun.training.trainer import Training

CPU = torch.device("cpu")
WEIGHTS = {"ce": 0.3, "smooth": 20.0, "small": 1e-4}


class Weighed(Method):
    """Three terms on the logits, of which one has draws; a module beside the student; a constant; a weight of 0."""

    name = "weighed"

    def __init__(self, student: nn.Module) -> None:
        super().__init__(student)
        self.beside = nn.Linear(4, 4)

    def objective(self, student: StudentOutput, batch: Batch, teacher: None) -> Objective:
        noise = torch.randn(student.logits.shape, generator=batch.generator)
        terms = {
            "ce": F.cross_entropy(student.logits, batch.y),
            "smooth": -F.log_softmax(student.logits + noise, dim=1).mean(),
            "small": self.beside(student.logits).square().mean(),
        }
        terms |= {"constant": torch.ones(()), "off": terms["ce"]}
        return Objective.of(student.logits, terms, {**WEIGHTS, "constant": 1.0, "off": 0.0})


class Unmeasured(Weighed):
    """The same without shares."""

    def objective(self, student: StudentOutput, batch: Batch, teacher: None) -> Objective:
        return dataclasses.replace(super().objective(student, batch, teacher), weighted={})


class One(Weighed):
    """A single term."""

    def objective(self, student: StudentOutput, batch: Batch, teacher: None) -> Objective:
        ce = F.cross_entropy(student.logits, batch.y)
        return Objective.of(student.logits, {"ce": ce}, {"ce": 1.0})


class Silent(Weighed):
    """One of a stranger's: its terms are not weighed by name."""

    name = "silent"

    def objective(self, student: StudentOutput, batch: Batch, teacher: None) -> Objective:
        return Objective(F.cross_entropy(student.logits, batch.y), student.logits)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8 * 16, 4)),
    )


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    drawn = []
    for step in range(count):
        y = torch.randint(4, (16,), generator=generator)
        x = torch.randn(16, 1, 8, 8, generator=generator)
        drawn.append(Batch(x, y, y, epoch=0, step=step % 3, progress=0.0, generator=torch.Generator()))
    return drawn


def step_of(kind: type[Method], *, precision: str = "fp32", **options: Any) -> Step:
    method = kind(network()).train()
    optimizer = build_optimizer("sgd", method.trained(), lr=0.1, momentum=0.9, nesterov=False, weight_decay=5e-4)
    return Step(method, optimizer, autocast(CPU, precision), **options)


def take(step: Step, batch: Batch) -> None:
    torch.manual_seed(7 + batch.step)
    batch.generator.manual_seed(batch.step)
    step.set_lr(0.1)
    step(batch, None, first=batch.step == 0)


def one_at_a_time(method: Method, batch: Batch) -> dict[str, float]:
    """The shares from a forward and a backward pass of their own for each term."""
    norms = {}
    for name in WEIGHTS:
        twin = copy.deepcopy(method)
        torch.manual_seed(7 + batch.step)
        batch.generator.manual_seed(batch.step)
        twin(batch, None).weighted[name].backward()
        parts = [p.grad.double().square().sum() for p in twin.student.parameters() if p.grad is not None]
        norms[name] = torch.stack(parts).sum().sqrt().item()
    return {name: 100 * norm / sum(norms.values()) for name, norm in {**norms, "constant": 0.0}.items()}


def test_shares_are_those_of_gradients_computed_one_at_a_time():
    step, (first, second, *_) = step_of(Weighed), batches(3)
    expected = one_at_a_time(step.method, first)
    take(step, first)
    take(step, second)
    means = step.end_epoch()
    assert means.shares == pytest.approx(expected, rel=1e-4)
    assert sum(means.shares.values()) == pytest.approx(100)
    assert 0 < means.shares["small"] < 1 < means.shares["ce"] < means.shares["smooth"]
    take(step, second)
    assert step.end_epoch().shares == {}, "there was no first batch"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measuring_changes_no_bit_of_the_training(precision):
    """With BatchNorm, dropout and a method's own draws."""
    measured, plain = step_of(Weighed, precision=precision), step_of(Unmeasured, precision=precision)
    for batch in batches(9):
        take(measured, batch)
        take(plain, batch)
    assert measured.end_epoch().shares.keys() == {*WEIGHTS, "constant"}
    assert plain.end_epoch().shares == {}
    for one, other in ((measured.method, plain.method), (measured.optimizer, plain.optimizer)):
        assert flat(one.state_dict()).keys() == flat(other.state_dict()).keys()
        assert all(torch.equal(value, flat(other.state_dict())[name]) for name, value in flat(one.state_dict()).items())


def flat(state: dict) -> dict[str, Tensor]:
    """The tensors of a state dict by their path."""
    found = {}
    for name, value in state.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": tensor for inner, tensor in flat(value).items()}
        elif isinstance(value, Tensor):
            found[str(name)] = value
    return found


def test_a_single_term_is_not_measured(monkeypatch):
    monkeypatch.setattr(step_module, "gradient_norms", None)  # would fail
    step = step_of(One)
    for batch in batches(2):
        take(step, batch)
    assert step.end_epoch().shares == {}


def test_whether_there_are_shares_is_known_from_the_rows_of_the_stage():
    """So that a resumed run computes its first steps as the uninterrupted one does."""
    training = Training(Weighed(network()), None)
    assert training.has_shares is None
    training.rows = [{"epoch": 1, "stage": 1}, {"epoch": 2, "stage": 1}]
    assert training.has_shares is False
    training.method.stage = 1
    assert training.has_shares is None
    training.rows.append({"epoch": 3, "stage": 2, "shares": {}})
    assert training.has_shares is True


def test_a_method_without_weighted_terms_is_told_once(caplog):
    step_module._report_no_shares.cache_clear()
    caplog.set_level("INFO", logger="kdrun")
    for _ in range(2):
        step = step_of(Silent)
        take(step, batches(1)[0])
        assert step.end_epoch().shares == {}
    (line,) = caplog.messages
    assert line == "method silent: its objective names no weighted terms: no shares of the gradient are measured"


def test_a_compiled_student_is_measured_uncompiled(monkeypatch):
    """The backward pass of a compiled graph runs once; `aot_eager` shows it without a compiler."""
    monkeypatch.setattr(
        nn.Module,
        "compile",
        lambda self, **_: setattr(self, "_compiled_call_impl", torch.compile(self._call_impl, backend="aot_eager")),
    )
    compiled, plain = step_of(Weighed, compiled="default"), step_of(Weighed)
    frames = torch._dynamo.utils.counters["stats"]
    frames.clear()
    for batch in batches(1):
        take(compiled, batch)
        take(plain, batch)
    assert not frames, "the first step is not compiled"
    for batch in batches(6)[1:]:
        take(compiled, batch)
        take(plain, batch)
    assert frames["unique_graphs"] == 1
    assert compiled.end_epoch().shares == pytest.approx(plain.end_epoch().shares, rel=1e-2)
