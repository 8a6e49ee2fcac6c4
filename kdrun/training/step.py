"""One training step: forward, backward, optimiser, metrics; nothing in it waits for the device.

The first step of an epoch also measures the share that each weighted term of the objective has in the gradient.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.methods.base import Batch, Method, Objective, TeacherOutput
from kdrun.metrics import num_agreeing, num_correct

logger = logging.getLogger(__name__)

COMPILER: dict[str, Any] = {"options": {"fallback_random": True}}
"""How torch.compile is called. Random numbers are drawn by torch's own generator, so dropout stays a function of
(seed, epoch, step); its masks are others than those of uncompiled steps."""

DEFAULT_MODE = "default"
"""Of torch.compile; others are `reduce-overhead` and `max-autotune`."""

MAX_GRAPHS = 256
"""Compiled networks that a process has at most; torch computes further ones uncompiled."""

Reduction = Callable[[list[Tensor]], list[Tensor]]

PERCENT = ("top1", "teacher_top1", "agreement")
"""The training metrics that are shares of the images; the others are the loss and its terms."""


class Step:
    """Steps of one student, one operation after the other: what faster ways to compute it are measured against.

    Args:
        method: owns the student; on the device of the batches.
        optimizer: over the method's parameters.
        autocast: the context in which the method computes.
        micro_batch: images that are computed at a time, at least 2: a batch of more is cut, and the gradients of its
            parts are added up, each weighed by its share of the images. None: any number.
        compiled: the mode of torch.compile for the student, for batches of the size of the first one: smaller ones
            (an epoch's last) are not worth a compilation of their own. The first step of an epoch is not compiled
            either: it can measure shares, where the backward pass of a compiled student runs once, and it shows which
            parameters have no gradient, where that of a compiled student is 0. None: it is not compiled.
        has_shares: whether the last epoch of this stage had shares to measure; None before its first one. What is
            captured keeps its weights, so only steps that are computed here determine it anew.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        autocast: AbstractContextManager[None],
        *,
        micro_batch: int | None = None,
        compiled: str | None = None,
        has_shares: bool | None = None,
    ) -> None:
        self.method = method
        self.optimizer = optimizer
        self._autocast = autocast
        self._micro_batch = micro_batch
        self._compiled = compiled
        self._full_size: int | None = None
        self._meter = Meter()
        self._has_shares = has_shares
        self._norms: dict[str, Tensor] = {}
        self._unused: list[Tensor] = []
        self._has_run_compiled = False
        if compiled:
            compile_network(method.student, compiled)

    @property
    def settled(self) -> bool:
        """Whether a step has been taken in the fast way, from which on it does nothing for the first time."""
        return self._has_run_compiled or not self._compiled

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate of the steps that follow."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def __call__(self, batch: Batch, teacher: TeacherOutput | None, *, first: bool) -> None:
        """Moves the weights by one step of the optimiser and adds the step's metrics; `first` of its epoch."""
        self._full_size = self._full_size or len(batch.y)
        eager = self._compiled and (first or len(batch.y) != self._full_size)
        self.optimizer.zero_grad(set_to_none=True)
        self._meter.begin_step(batch.x.device)
        for number, (part, output) in enumerate(parts(batch, teacher, self._micro_batch)):
            stance = torch.compiler.set_stance("force_eager") if eager else contextlib.nullcontext()
            with self._autocast, stance:
                objective: Objective = self.method(part, output)
            if first and number == 0:
                self._measure_shares(objective)
            is_whole = len(part.y) == len(batch.y)
            (objective.loss if is_whole else objective.loss * (len(part.y) / len(batch.y))).backward()
            self._meter.add(part, objective, output)
        if self._compiled:
            self._leave_unused_alone(find=first)
        self.optimizer.step()
        self._has_run_compiled |= not eager

    def _measure_shares(self, objective: Objective, reduced: Reduction | None = None) -> None:
        """Measures the shares of an epoch, in its first objective: a weight that was 0 may have grown."""
        self._has_shares = len(objective.weighted) > 1
        if self._has_shares:
            self._norms = gradient_norms(objective.weighted, self.method.measured(), reduced)
        elif not objective.weighted:
            _report_no_shares(self.method.name)

    def _leave_unused_alone(self, *, find: bool) -> None:
        """Keeps the optimiser, with its momentum and weight decay, from parameters that have no part in the loss."""
        if find:
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            self._unused = [parameter for parameter in parameters if parameter.grad is None]
        for parameter in self._unused:
            parameter.grad = None

    def progress(self) -> tuple[Any, ...]:
        """A copy of what the steps of this epoch have added up, for `continue_from`."""
        return copy.deepcopy((self._full_size, self._meter, self._has_shares, self._norms))

    def continue_from(self, progress: tuple[Any, ...]) -> None:
        """Continues an epoch from what `progress` of another step over the same method returned."""
        self._full_size, self._meter, self._has_shares, self._norms = progress

    def end_epoch(self) -> EpochMeans:
        """The means of the epoch; resets the sums."""
        norms, self._norms = self._norms, {}
        return self._meter.read(norms)


def parts(
    batch: Batch, teacher: TeacherOutput | None, size: int | None
) -> Iterator[tuple[Batch, TeacherOutput | None]]:
    """A batch, and the teacher's output for it, in parts of `size` images; the last has the rest.

    A rest of one image is in the part before it: BatchNorm cannot train on one.
    """
    images = len(batch.index) // batch.views
    if size is None or images <= size + 1:
        yield batch, teacher
        return
    starts = range(0, images - 1, size)
    for start, end in itertools.pairwise((*starts, images)):
        here = slice(start, end)
        yield batch.part(here), None if teacher is None else teacher.part(here, batch.views, images)


def gradient_norms(
    weighted: Mapping[str, Tensor],
    parameters: Sequence[nn.Parameter],
    reduced: Reduction | None = None,
) -> dict[str, Tensor]:
    """The norm (L2) of each weighted term's gradient with respect to all the parameters together.

    The graph of the terms, and gradients that are accumulated in the parameters, stay as they are.

    Args:
        weighted: scalars by name.
        parameters: one at least.
        reduced: the gradients of all ranks, from those of this one; None: there are no others.

    Returns:
        Scalars on the device, by name; 0 for a term that is a constant.
    """
    norms = {}
    for name, term in weighted.items():
        used: list[Tensor] = []
        if term.requires_grad:
            found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            used = [gradient for gradient in found if gradient is not None]
            if reduced is not None and used:
                used = reduced(used)
        parts = torch._foreach_norm(used) if used else [torch.zeros((), device=term.device)]
        norms[name] = torch.linalg.vector_norm(torch.stack(list(parts)).float())
    return norms


@functools.cache
def _report_no_shares(method: str) -> None:
    """Once in a process, since the students of a sweep share the method."""
    logger.info("method %s: its objective names no weighted terms: no shares of the gradient are measured", method)


def compile_network(network: nn.Module, mode: str = DEFAULT_MODE) -> None:
    """Compiles a network in place, with whatever taps it has when it is called.

    torch uses a graph again for every network of the same code. By default it does not look at hooks then, so that a
    student would run the graph of another network without its taps, its teacher's for example.
    """
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    torch._dynamo.config.recompile_limit = MAX_GRAPHS
    compiler = COMPILER
    if mode != DEFAULT_MODE:
        compiler = {"options": {**torch._inductor.list_mode_options(mode), **COMPILER["options"]}}
    network.compile(dynamic=False, **compiler)


def uncompile_network(network: nn.Module) -> None:
    """Undoes `compile_network`."""
    network._compiled_call_impl = None


@dataclass(frozen=True)
class EpochMeans:
    """Means over the steps of an epoch.

    Attributes:
        means: per image, of the loss, its terms and the shares (in percent).
        images: that were trained on.
        first_bad_step: the first step (from 1) whose loss was not a finite number; None where all were.
        shares: of each weighted term in the gradient on the first batch, in percent: 100 |g_i| / sum_j |g_j|, g_i its
            gradient with respect to the parameters that `Method.measured` names; all 0 where none has a gradient.
            Empty: an objective of less than two terms.
    """

    means: dict[str, float]
    images: int
    first_bad_step: int | None
    shares: dict[str, float] = field(default_factory=dict)


class Meter:
    """Sums over an epoch, on the device, read once at its end.

    The tensors stay the same from epoch to epoch and are added to in place, so that a captured step can do it.
    """

    def __init__(self) -> None:
        self._images, self._steps, self._first_bad = torch.zeros(3).unbind()
        self._sums: dict[str, Tensor] = {}

    def begin_step(self, device: torch.device) -> None:
        """Counts a step; `add` follows for each part of its batch."""
        if self._images.device != device:
            self._images, self._steps, self._first_bad = torch.zeros(3, device=device).unbind()
        self._steps.add_(1)

    @torch.no_grad()
    def add(self, batch: Batch, objective: Objective, teacher: TeacherOutput | None, *, share: int = 1) -> None:
        """Adds a step; with a `share` of 0 nothing but its number, as what another rank adds."""
        size = share * len(batch.y)
        loss = objective.loss.detach()
        self._images.add_(size)
        first = ~loss.isfinite() & (self._first_bad == 0)
        self._first_bad.add_(self._steps * first)
        self._add("loss", loss * size)
        for name, term in objective.terms.items():
            self._add(name, term.detach() * size)
        self._add("top1", num_correct(objective.logits, batch.y), share)
        if teacher is not None and teacher.same_task:
            self._add("teacher_top1", num_correct(teacher.logits, batch.y), share)
            self._add("agreement", num_agreeing(objective.logits, teacher.logits), share)

    def _add(self, name: str, value: Tensor, share: int = 1) -> None:
        if name not in self._sums:
            self._sums[name] = torch.zeros((), device=value.device)
        self._sums[name].add_(value, alpha=share)

    def read(self, norms: Mapping[str, Tensor]) -> EpochMeans:
        """The epoch's means, with the shares that the norms of the terms' gradients have in their sum."""
        counters = [self._images, self._steps, self._first_bad, *self._sums.values()]
        totals = torch.stack([*self._totals(counters), *norms.values()])
        images, _, first_bad, *values = totals.tolist()  # the only wait for it
        for counter in counters:
            counter.zero_()
        sums = zip(self._sums, values, strict=False)
        means = {name: (100 if name in PERCENT else 1) * value / images for name, value in sums}
        sizes = dict(zip(norms, values[len(self._sums) :], strict=True))
        whole = sum(sizes.values())
        shares = {name: 100 * size / whole if whole else 0.0 for name, size in sizes.items()}
        return EpochMeans(means, round(images), round(first_bad) or None, shares)

    def _totals(self, counters: Sequence[Tensor]) -> Sequence[Tensor]:
        """What `read` uses of the images, the steps, the first bad step and the sums."""
        return counters
