"""A rehearsal: builds the networks a run needs, times a few steps on random examples, and writes nothing."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kdrun.experiment.build import build_optimisation, build_student, needs_of
from kdrun.experiment.cost import macs_per_example, threads_for
from kdrun.methods import CE
from kdrun.models.cost import num_parameters
from kdrun.spec.components import method_class
from kdrun.spec.dataset import SequenceDatasetSpec
from kdrun.spec.spec import Component, Spec
from kdrun.training.precision import autocast, on_device

TIMED_STEPS = 2
TIMED_MACS = 4e9
"""On a CPU, where time grows with the images, so much of a batch is timed; on a GPU, where it does not, all of it."""


@dataclass(frozen=True)
class Estimate:
    """What a run costs, without its teachers' training.

    Attributes:
        params: of the student.
        macs: of its forward pass on one image or sequence.
        steps: of an epoch.
        step_seconds: of one training step, the teachers' forward passes included.
        seconds: of the whole run, its evaluations included.
    """

    params: int
    macs: int
    steps: int
    step_seconds: float
    seconds: float


class Estimator:
    """Times each network once, on this machine as busy as it is.

    What a method computes beside its networks is not counted: for methods on logits it is small.
    """

    def __init__(self, device: torch.device, threads: int | None = None) -> None:
        self._device = device
        self._threads = threads
        self._all_threads = torch.get_num_threads()
        self._known: dict[str, tuple[float, float]] = {}

    def estimate(self, spec: Spec) -> Estimate:
        """The cost of a run."""
        training, evaluation = self._seconds_per_example(spec, spec.student)
        on_theirs = [(dataclasses.replace(spec, dataset=teacher.dataset), teacher.student) for teacher in spec.teachers]
        teaching = sum(self._seconds_per_example(taught, network)[1] for taught, network in on_theirs)
        examples = spec.dataset.num_train_examples
        epochs = spec.epochs_trained
        evaluated = sum(spec.recipe.evaluates(epoch) or epoch == epochs for epoch in range(1, epochs + 1))
        each = needs_of(spec).views * (training + teaching)  # of an example, all its views
        seconds = epochs * examples * each + evaluated * spec.dataset.test_size * evaluation
        return Estimate(
            params=num_parameters(build_student(spec.student, spec.dataset)),
            macs=macs_per_example(spec),
            steps=math.ceil(examples / spec.recipe.batch_size),
            step_seconds=spec.recipe.batch_size * each,
            seconds=seconds,
        )

    def line(self, spec: Spec, *, role: str) -> str:
        """The estimate in words."""
        cost = self.estimate(spec)
        return (
            f"{role} {spec.student.name} {method_class(spec.method).name} on {spec.dataset.name} ({spec.run_id}): "
            f"{cost.params:,} parameters, {cost.macs / 1e6:.2f} M MACs per {spec.dataset.example}, "
            f"{spec.epochs_trained} epochs of {cost.steps} steps at {1000 * cost.step_seconds:.0f} ms: "
            f"about {duration(cost.seconds)} on {self._device.type}"
        )

    def _seconds_per_example(self, spec: Spec, network: Component) -> tuple[float, float]:
        """Of training a network, and of its forward pass in evaluation, as the run `spec` does it."""
        size = spec.recipe.batch_size
        data = spec.dataset
        key = repr((network, data.told, data.shape, size, spec.precision))
        if key not in self._known:
            torch.set_num_threads(self._threads or threads_for(spec, self._device, self._all_threads))
            self._known[key] = _time(spec, network, self._device)
        return self._known[key]


def with_teachers(specs: Sequence[Spec]) -> list[tuple[Spec, str]]:
    """Every run that a set of runs takes, once, teachers first; with its role, `teacher` or `student`.

    A teacher that is itself asked for is a student.
    """
    asked = {spec.run_id: spec for spec in specs}
    teachers = {teacher.run_id: teacher for spec in specs for teacher in spec.all_before()}
    only = [(teacher, "teacher") for run_id, teacher in teachers.items() if run_id not in asked]
    return only + [(spec, "student") for spec in asked.values()]


def duration(seconds: float) -> str:
    """A time as a person says it."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if hours >= 48:
        return f"{days:.1f} days"
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"


def _time(spec: Spec, network: Component, device: torch.device) -> tuple[float, float]:
    """Seconds per example of a training step, and of evaluation."""
    student = on_device(build_student(network, spec.dataset), device)
    method = CE(student).to(device).train()
    optimizer, _ = build_optimisation(spec.recipe, method.parameters(), 1)
    context = autocast(device, spec.precision)
    size, data = spec.recipe.batch_size, spec.dataset
    if device.type == "cpu":
        size = max(2, min(size, int(TIMED_MACS / macs_per_example(spec, network))))
    if isinstance(data, SequenceDatasetSpec):
        x = torch.randint(1, data.num_tokens, (size, *data.shape), device=device)
    else:
        x = torch.randn(size, *data.shape, device=device).to(memory_format=torch.channels_last)
    y = torch.randint(len(data.outputs), (size * data.labels_each,), device=device)

    def step() -> None:
        with context:
            loss = F.cross_entropy(student(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def evaluate() -> None:
        with context:
            student(x)

    training = _timed(step, device)
    student.eval()
    return training / size, _timed(evaluate, device) / size


def _timed(function: Callable[[], None], device: torch.device) -> float:
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(TIMED_STEPS):
        function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / TIMED_STEPS
