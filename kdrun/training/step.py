"""One training step: forward, backward, optimiser, metrics; nothing in it waits for the device."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.methods.base import Batch, Method, Objective, TeacherOutput
from kdrun.metrics import num_agreeing, num_correct

COMPILER: dict[str, Any] = {"options": {"fallback_random": True}}
"""How torch.compile is called. Random numbers are drawn by torch's own generator, so dropout stays a function of
(seed, epoch, step); its masks are others than those of uncompiled steps."""

MAX_GRAPHS = 256
"""Compiled networks that a process has at most; torch computes further ones uncompiled."""

PERCENT = ("top1", "teacher_top1", "agreement")
"""The training metrics that are shares of the images; the others are the loss and its terms."""


class Step:
    """Steps of one student, one operation after the other: what faster ways to compute it are measured against.

    Args:
        method: owns the student; on the device of the batches.
        optimizer: over the method's parameters.
        autocast: the context in which the method computes.
        compiled: compiles the student with torch.compile, for batches of the size of the first one: smaller ones
            (an epoch's last) are not worth a compilation of their own.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        autocast: AbstractContextManager[None],
        *,
        compiled: bool = False,
    ) -> None:
        self.method = method
        self.optimizer = optimizer
        self._autocast = autocast
        self._compiled = compiled
        self._full_size: int | None = None
        self._meter = _Meter()
        if compiled:
            compile_network(method.student)

    def __call__(self, batch: Batch, teacher: TeacherOutput | None, lr: float) -> None:
        """Moves the weights by one step of the optimiser, and counts the step's metrics."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self._compute(batch, teacher)

    def _compute(self, batch: Batch, teacher: TeacherOutput | None) -> None:
        self._full_size = self._full_size or len(batch.y)
        smaller = self._compiled and len(batch.y) != self._full_size
        stance = torch.compiler.set_stance("force_eager") if smaller else contextlib.nullcontext()
        with self._autocast, stance:
            objective: Objective = self.method(batch, teacher)
        self.optimizer.zero_grad(set_to_none=True)
        objective.loss.backward()
        self.optimizer.step()
        self._meter.add(batch, objective, teacher)

    def end_epoch(self) -> EpochMeans:
        """What the epoch's steps have counted; then counts anew."""
        return self._meter.read()


def compile_network(network: nn.Module) -> None:
    """Compiles a network in place, with whatever taps it has when it is called.

    torch uses a graph again for every network of the same code. By default it does not look at hooks then, so that a
    student would run the graph of another network without its taps, its teacher's for example.
    """
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    torch._dynamo.config.recompile_limit = MAX_GRAPHS
    network.compile(dynamic=False, **COMPILER)


@dataclass(frozen=True)
class EpochMeans:
    """What the steps of an epoch have counted.

    Attributes:
        means: per image, of the loss, its terms and the shares (in percent).
        images: that were trained on.
        first_bad_step: the first step (from 1) whose loss was not a finite number; None where all were.
    """

    means: dict[str, float]
    images: int
    first_bad_step: int | None


class _Meter:
    """Sums over an epoch, on the device, read once at its end.

    The tensors stay the same from epoch to epoch and are added to in place, so that a captured step can do it.
    """

    def __init__(self) -> None:
        self._images, self._steps, self._first_bad = torch.zeros(3).unbind()
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, batch: Batch, objective: Objective, teacher: TeacherOutput | None) -> None:
        size = len(batch.y)
        loss = objective.loss.detach()
        if self._images.device != loss.device:
            self._images, self._steps, self._first_bad = torch.zeros(3, device=loss.device).unbind()
        self._images.add_(size)
        self._steps.add_(1)
        first = ~loss.isfinite() & (self._first_bad == 0)
        self._first_bad.add_(self._steps * first)
        self._add("loss", loss * size)
        for name, term in objective.terms.items():
            self._add(name, term.detach() * size)
        self._add("top1", num_correct(objective.logits, batch.y))
        if teacher is not None and teacher.same_task:
            self._add("teacher_top1", num_correct(teacher.logits, batch.y))
            self._add("agreement", num_agreeing(objective.logits, teacher.logits))

    def _add(self, name: str, value: Tensor) -> None:
        if name not in self._sums:
            self._sums[name] = torch.zeros((), device=value.device)
        self._sums[name].add_(value)

    def read(self) -> EpochMeans:
        counters = [self._images, self._steps, self._first_bad, *self._sums.values()]
        images, _, first_bad, *values = torch.stack(counters).tolist()  # the epoch's only wait for the device
        for counter in counters:
            counter.zero_()
        sums = zip(self._sums, values, strict=True)
        means = {name: (100 if name in PERCENT else 1) * value / images for name, value in sums}
        return EpochMeans(means, round(images), round(first_bad) or None)
