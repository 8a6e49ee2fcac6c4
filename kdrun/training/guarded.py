"""Steps in a fast way that an ordinary one replaces as soon as the fast way fails."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kdrun import stopping
from kdrun.methods.base import Batch, TeacherOutput
from kdrun.seeds import global_generators
from kdrun.training.cuda_graphs import restore_generator
from kdrun.training.precision import synchronize
from kdrun.training.step import EpochMeans, Step, uncompile_network


class GuardedStep:
    """Steps of one student in a fast way; if one raises, it and all later ones are ordinary steps.

    Until the fast way has settled (compiled, captured), the state before each step is kept. A failing step leaves no
    trace: the ordinary one begins with the same weights, optimiser, metrics and random numbers.

    Args:
        fast: computes the steps.
        ordinary: makes what computes them once `fast` has failed, over the same method and optimiser.
        on_failure: called with the exception of `fast`, before the ordinary step.
    """

    def __init__(self, fast: Step, ordinary: Callable[[], Step], on_failure: Callable[[Exception], None]) -> None:
        self._step = fast
        self._ordinary = ordinary
        self._on_failure = on_failure
        self._is_fast = True
        self._lr = 0.0

    def set_lr(self, lr: float) -> None:
        """See `Step`."""
        self._lr = lr
        self._step.set_lr(lr)

    def __call__(self, batch: Batch, teacher: TeacherOutput | None, *, first: bool) -> None:
        """See `Step`."""
        if not self._is_fast or self._step.settled:
            self._step(batch, teacher, first=first)
            return
        device = batch.x.device
        synchronize(device)
        state = _State(self._step, batch.generator, device)
        try:
            self._step(batch, teacher, first=first)
            synchronize(device)
        except Exception as error:  # the class depends on the compiler, the device, and the code they work on
            stopping.check()  # it may be what the compiler made of a stop
            self._is_fast = False
            self._step = self._replaced(state, device)
            self._on_failure(error)
            self._step(batch, teacher, first=first)

    def _replaced(self, state: _State, device: torch.device) -> Step:
        """The ordinary step, in the state before the fast one failed."""
        if device.type == "cuda":
            restore_generator(device)
        uncompile_network(self._step.method.student)
        ordinary = self._ordinary()
        state.restore(ordinary)
        ordinary.set_lr(self._lr)
        return ordinary

    def end_epoch(self) -> EpochMeans:
        """See `Step`."""
        return self._step.end_epoch()


class _State:
    """What a step changes: weights, buffers, optimiser, sums of the metrics, random numbers."""

    def __init__(self, step: Step, generator: torch.Generator, device: torch.device) -> None:
        self._tensors = [tensor.detach().clone() for tensor in _tensors(step)]
        self._optimizer: dict[str, Any] = copy.deepcopy(step.optimizer.state_dict())
        self._progress = step.progress()
        self._generator, self._drawn = generator, generator.get_state()
        self._device, self._random = device, _random_state(device)

    def restore(self, step: Step) -> None:
        """Gives a step on the same method and optimiser this state."""
        with torch.no_grad():
            for tensor, before in zip(_tensors(step), self._tensors, strict=True):
                tensor.copy_(before)
        step.optimizer.load_state_dict(self._optimizer)
        step.continue_from(self._progress)
        self._generator.set_state(self._drawn)
        for generator, state in zip(global_generators(self._device), self._random, strict=True):
            generator.set_state(state)


def _tensors(step: Step) -> list[Tensor]:
    return [*step.method.parameters(), *step.method.buffers()]


def _random_state(device: torch.device) -> list[Tensor]:
    return [generator.get_state() for generator in global_generators(device)]
