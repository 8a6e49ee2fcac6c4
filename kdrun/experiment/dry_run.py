"""Estimates of the time of runs: by the speeds that earlier runs kept, else by timing networks for some seconds.

Nothing is written.
"""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from kdrun.experiment.build import needs_of
from kdrun.experiment.sizes import size_of, threads_for
from kdrun.experiment.speeds import Network, Speed, known_speeds
from kdrun.experiment.timing import Trial, time_networks
from kdrun.log import counted
from kdrun.spec.components import method_class
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.spec import Component, Spec

TIMING_SECONDS = 5.0
"""For all the networks of a command together."""

LIKENESS = 4.0
"""A kept speed is also used for networks of its family whose MACs differ by at most this factor."""

Basis = Literal["kept", "related", "timed", "guessed"]
WORDS: dict[Basis, str] = {
    "kept": "by the speeds that earlier runs kept",
    "related": "by those of related networks",
    "timed": "timed now",
    "guessed": "a guess, by other networks or a convolution timed now",
}


@dataclass(frozen=True)
class Estimate:
    """The cost of a run, without its teachers' training.

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
    """Predicts the time of runs from the MACs of their networks, on this machine as busy as it is.

    Not counted are views, and what a method computes beside its networks: for methods on logits it is small.

    Args:
        specs: all runs that are to be estimated.
        device: where they will run.
        threads: of the CPU, for each of them; None is by the size of its step.
    """

    def __init__(self, specs: Iterable[Spec], device: torch.device, threads: int | None = None) -> None:
        self._specs = list(specs)
        self._device = device
        self._threads = threads
        self._all_threads = torch.get_num_threads()
        self._timed_seconds = 0.0

    def estimate(self, spec: Spec) -> Estimate:
        """The cost of a run."""
        data, recipe = spec.dataset, spec.recipe
        training, evaluation = self._seconds_per_example(spec, spec.student, data)
        teaching = sum(self._seconds_per_example(spec, each.student, each.dataset)[1] for each in spec.teachers)
        each = needs_of(spec).views * (training + teaching)  # of an example, all its views
        epochs = spec.epochs_trained
        evaluations = math.ceil(epochs / (recipe.evaluate_every or epochs)) if epochs else 0
        size = size_of(spec.student, data)
        return Estimate(
            params=size.params,
            macs=size.macs,
            steps=math.ceil(data.num_train_examples / recipe.batch_size),
            step_seconds=min(recipe.batch_size, data.num_train_examples) * each,
            seconds=epochs * data.num_train_examples * each + evaluations * data.test_size * evaluation,
        )

    def line(self, spec: Spec, *, role: str) -> str:
        """The estimate in words."""
        cost = self.estimate(spec)
        epochs, steps = counted(spec.epochs_trained, "epoch"), counted(cost.steps, "step")
        return (
            f"{role} {spec.student.name} {method_class(spec.method).name} on {spec.dataset.name} "
            f"({spec.run_id}): "
            f"{cost.params:,} parameters, {cost.macs / 1e6:.2f} M MACs per {spec.dataset.example}, "
            f"{epochs} of {steps} at {1000 * cost.step_seconds:.0f} ms: "
            f"about {duration(cost.seconds)} on {self._device.type}"
        )

    def basis(self) -> str:
        """The sources of the estimates, in words."""
        counts = Counter(basis for _, basis in self._speeds.values())
        parts = [f"{counts[basis]} {words}" for basis, words in WORDS.items() if counts[basis]]
        took = f"; timing took {self._timed_seconds:.1f} s, nothing is kept" if self._timed_seconds else ""
        return f"times of {len(self._speeds)} network{'s'[: len(self._speeds) > 1]}: {', '.join(parts)}{took}"

    def _seconds_per_example(self, spec: Spec, component: Component, data: DatasetSpec) -> tuple[float, float]:
        """The times of a network in training and in evaluation."""
        network = Network.of(spec, component, data)
        speed, _ = self._speeds[network, self._threads_of(spec)]
        return network.macs / speed.training, network.macs / speed.evaluation

    def _threads_of(self, spec: Spec) -> int:
        return self._threads or threads_for(spec, self._device, self._all_threads)

    @functools.cached_property
    def _speeds(self) -> dict[tuple[Network, int], tuple[Speed, Basis]]:
        """By network and threads the speed for estimates, and its source."""
        trials: dict[tuple[Network, int], Trial] = {}
        for spec in self._specs:
            threads = self._threads_of(spec)
            for run in (spec, *spec.teachers):
                network = Network.of(spec, run.student, run.dataset)
                trial = Trial(network, run.student, run.dataset, spec.recipe.micro_batch_size, threads)
                trials.setdefault((network, threads), trial)
        kept = {threads: known_speeds(self._device, threads) for _, threads in trials}
        found = {key: speed for key in trials if (speed := _kept(key[0], kept[key[1]]))}
        missing = {key: trial for key, trial in trials.items() if key not in found}
        return {**found, **self._timed(missing)}

    def _timed(self, trials: dict[tuple[Network, int], Trial]) -> dict[tuple[Network, int], tuple[Speed, Basis]]:
        if not trials:
            return {}
        started = time.perf_counter()
        speeds, convolution = time_networks(list(trials.values()), self._device, seconds=TIMING_SECONDS)
        self._timed_seconds = time.perf_counter() - started
        timed: dict[tuple[Network, int], tuple[Speed, Basis]] = {}
        for (network, threads), speed in zip(trials, speeds, strict=True):
            nearest = network.nearest(each for each in speeds if each is not None) or convolution
            timed[network, threads] = (speed, "timed") if speed else (nearest, "guessed")
        return timed


def _kept(network: Network, speeds: Sequence[Speed]) -> tuple[Speed, Basis] | None:
    """The kept speed of a network, else of the most similar network of its family."""
    for speed in speeds:
        if network.is_of(speed):
            return speed, "kept"
    alike = [speed for speed in speeds if network.is_related(speed, LIKENESS)]
    nearest = network.nearest(alike)
    return None if nearest is None else (nearest, "related")


def with_teachers(specs: Sequence[Spec]) -> list[tuple[Spec, str]]:
    """A set of runs and their teachers, each once, teachers first; with its role, `teacher` or `student`.

    A teacher that is itself in the set is a student.
    """
    asked = {spec.run_id: spec for spec in specs}
    teachers = {teacher.run_id: teacher for spec in specs for teacher in spec.all_before()}
    only = [(teacher, "teacher") for run_id, teacher in teachers.items() if run_id not in asked]
    return only + [(spec, "student") for spec in asked.values()]


def duration(seconds: float) -> str:
    """A time in seconds, minutes, hours or days."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if hours >= 48:
        return f"{days:.1f} days"
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"
