"""Fast ways to compute a step that fail, and which steps are captured; without a GPU."""

import contextlib
import functools
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdrun import stopping
from kdrun.methods import KD, Batch, TeacherOutput
from kdrun.mixed import Mixed
from kdrun.training import cuda_graphs
from kdrun.training.cuda_graphs import GraphedStep
from kdrun.training.guarded import GuardedStep
from kdrun.training.optimisation import build_optimizer
from kdrun.training.step import Step

SIZES = (16, 16, 5)
"""Of the batches of an epoch."""


class Fails(Step):
    """A fast way that raises at its `at`-th step: before it computes anything, half-way, or at the end."""

    settled = False

    def __init__(self, *args, at: int, when: str, **options) -> None:
        super().__init__(*args, **options)
        self.at, self.when, self.calls = at, when, 0

    def __call__(self, batch, teacher, *, first):
        self.calls += 1
        if self.calls != self.at:
            super().__call__(batch, teacher, first=first)
            return
        if self.when == "half-way":
            self.method(batch, teacher).loss.backward()  # moves the statistics of BatchNorm, draws for dropout
            torch.rand(3, generator=batch.generator)
            self.optimizer.step()
        if self.when == "at the end":
            super().__call__(batch, teacher, first=first)
        raise OSError("no compiler")


def trained(make_step, *, optimizer: str = "sgd", epochs: int = 2, mixes: bool = False):
    """A student with BatchNorm and dropout; what is left of it after some epochs."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    method = KD(student, temperature=2.0, alpha=0.5).train()
    moved = build_optimizer(optimizer, method.parameters(), lr=0.1, momentum=0.9, nesterov=False, weight_decay=1e-3)
    step = make_step(method, moved, contextlib.nullcontext())
    means = []
    for epoch in range(epochs):
        for number, size in enumerate(SIZES):
            torch.manual_seed(10 * epoch + number)
            x, y = torch.randn(size, 6), torch.randint(3, (size,))
            generator = torch.Generator().manual_seed(number)
            batch = Batch(x, y, y, epoch, number, progress=0.0, generator=generator)
            if mixes:
                batch = replace(batch, mixed=Mixed(y.roll(1), torch.rand(size)), label_smoothing=0.1)
            step.set_lr(0.1 / (epoch + 1))
            step(batch, TeacherOutput(torch.randn(size, 3)), first=number == 0)
        means.append(step.end_epoch())
    state = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    return means, state, moved.state_dict()["state"], torch.rand(1)


def assert_same(found, expected):
    assert found[0] == expected[0]
    torch.testing.assert_close(found[1:], expected[1:], rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("when", ["before", "half-way", "at the end"])
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_failing_step_leaves_no_trace(optimizer, when, at):
    failures: list[Exception] = []

    def guarded(*args):
        return GuardedStep(Fails(*args, at=at, when=when), lambda: Step(*args), failures.append)

    assert_same(trained(guarded, optimizer=optimizer), trained(Step, optimizer=optimizer))
    assert [type(failure) for failure in failures] == [OSError]


def test_once_settled_a_failure_is_the_runs_own():
    class Settles(Fails):
        @property
        def settled(self):
            return self.calls > 0

    with pytest.raises(OSError, match="no compiler"):
        trained(lambda *args: GuardedStep(Settles(*args, at=2, when="before"), lambda: Step(*args), pytest.fail))


def test_a_stop_that_a_compiler_turns_into_an_error_stops(monkeypatch):
    class Stops(Fails):
        def __call__(self, batch, teacher, *, first):
            monkeypatch.setattr(stopping, "_requested", signal.SIGTERM)
            super().__call__(batch, teacher, first=first)

    with pytest.raises(stopping.Stopped):
        trained(lambda *args: GuardedStep(Stops(*args, at=1, when="half-way"), pytest.fail, pytest.fail))


def test_a_compiler_that_fails_leaves_an_uncompiled_student(monkeypatch, fresh_compiler):
    """As torch.compile does without a C compiler: at the first call of what it compiled."""

    def broken(graph, inputs):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr("kdrun.training.step.COMPILER", {"backend": broken})
    failures: list[Exception] = []

    def guarded(*args):
        return GuardedStep(Step(*args, compiled="default"), lambda: Step(*args), failures.append)

    assert_same(trained(guarded), trained(Step))
    assert len(failures) == 1
    assert "no C compiler" in str(failures[0])


@pytest.fixture
def no_cuda(monkeypatch):
    """Streams that do nothing, and captures that replay an ordinary step on the captured batch; yields their sizes."""
    sizes: list[int] = []
    stream = SimpleNamespace(wait_stream=lambda other: None, device=torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, _: None)

    def capture(self, given, teacher, batch):
        sizes.append(len(given[1]))
        self._inputs = [tensor.clone() for tensor in given]
        static, answer = cuda_graphs._static(self._inputs, batch, teacher)
        self._graph = SimpleNamespace(replay=lambda: Step.__call__(self, static, answer, first=False))

    monkeypatch.setattr(GraphedStep, "_capture", capture)
    return sizes


def test_a_step_of_full_size_is_captured(no_cuda):
    """The third step is an epoch's smaller last one: captured, it would never be replayed, or be fed larger batches."""
    captured: list[GraphedStep] = []

    def graphed(*args):
        captured.append(GraphedStep(*args))
        return captured[0]

    assert_same(trained(graphed, epochs=3), trained(Step, epochs=3))
    assert no_cuda == [SIZES[0]]
    assert captured[0].settled


def test_mixed_and_smoothed_labels_in_micro_batches_are_captured(no_cuda):
    """Each replay has its own second labels and their weights."""
    graphed, plain = (functools.partial(kind, micro_batch=4) for kind in (GraphedStep, Step))
    found = trained(graphed, epochs=3, mixes=True)
    assert_same(found, trained(plain, epochs=3, mixes=True))
    assert no_cuda == [SIZES[0]]
    assert found[0] != trained(plain, epochs=3)[0]
