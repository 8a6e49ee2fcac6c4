"""Whole steps captured once and replayed: one launch of a graph instead of a thousand small operations.

Every student has its own stream and its own graph, so students in lockstep fill the device together. The teacher's
graph is on the stream that makes the views.
"""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdrun.methods.base import Batch, Method, TeacherOutput
from kdrun.mixed import Mixed
from kdrun.training.step import EpochMeans, Step
from kdrun.training.teacher import LiveTeacher

WARM_UP_STEPS = 3
"""Ordinary steps before the capture: they make the optimiser's state, and libraries choose their algorithms."""

_captured: weakref.WeakSet[GraphedStep] = weakref.WeakSet()

logger = logging.getLogger(__name__)


class NotCapturableError(RuntimeError):
    """A method reads a value in Python that changes at every step; a graph would keep its first value."""


class GraphedStep(Step):
    """Steps on a CUDA device: forward, backward, optimiser and metrics as one graph.

    The first steps are ordinary ones, as are those on batches of another size (an epoch's last) and an epoch's first
    where the objective has several terms, whose shares it measures, or where the student is compiled. The learning
    rate is a tensor that the graph reads; the global generator's seed is read at each replay, so dropout stays a
    function of (seed, epoch, step). A step that cannot be captured raises, with weights and optimiser as they were:
    among others that of a method that reads `batch.progress` and the like (`NotCapturableError`).

    Args:
        method: owns the student; on a CUDA device.
        optimizer: over the method's parameters, not yet stepped or restored from a checkpoint.
        autocast: the context in which the method computes.
        micro_batch: see `Step`.
        compiled: see `Step`; what is captured is then the compiled student.
        has_shares: see `Step`.
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
        super().__init__(method, optimizer, autocast, micro_batch=micro_batch, compiled=compiled, has_shares=has_shares)
        device = next(method.parameters()).device
        self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm_up_steps = 0
        self._has_replayed = False
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
            if "capturable" in group:
                group["capturable"] = True

    @property
    def settled(self) -> bool:
        """Whether a captured step has been replayed."""
        return self._has_replayed

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate of the steps that follow, captured ones too."""
        with torch.cuda.stream(self._stream):
            for group in self.optimizer.param_groups:
                group["lr"].fill_(lr)

    def __call__(self, batch: Batch, teacher: TeacherOutput | None, *, first: bool) -> None:
        """Moves the weights by one step of the optimiser, and counts the step's metrics; see `Step`."""
        given = [batch.x, batch.y, batch.index, *(batch.mixed or ()), *_changing(teacher)]  # as `_static` takes them
        self._stream.wait_stream(torch.cuda.current_stream(batch.x.device))
        with torch.cuda.stream(self._stream):
            for tensor in given:  # its memory is not used again before this stream has read it
                tensor.record_stream(self._stream)
            ordinary = first and (self._compiled or self._has_shares is not False)
            is_full = len(batch.y) == (self._full_size or len(batch.y))
            if self._graph is not None and is_full and not ordinary:
                for kept, tensor in zip(self._inputs, given, strict=True):
                    kept.copy_(tensor)
                self._graph.replay()
                self._has_replayed = True
                return
            super().__call__(batch, teacher, first=first)
            self._warm_up_steps += is_full
            if self._graph is None and self._warm_up_steps >= WARM_UP_STEPS and is_full:
                self._capture(given, teacher, batch)

    def _capture(self, given: list[Tensor], teacher: TeacherOutput | None, batch: Batch) -> None:
        """Records a step without taking it: from the next one on it is replayed."""
        self._inputs = [tensor.clone() for tensor in given]
        static: Any
        static, answer = _static(self._inputs, batch, teacher)
        self.optimizer.zero_grad(set_to_none=True)  # so that gradients are allocated in the graph's own memory
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            super().__call__(static, answer, first=False)
        self._graph = graph
        _captured.add(self)

    def forget(self) -> None:
        """Drops the graph; the next step of full size is captured again."""
        self._graph = None
        _captured.discard(self)

    def end_epoch(self) -> EpochMeans:
        """The means of the epoch; resets the sums."""
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        return super().end_epoch()


def _changing(teacher: TeacherOutput | None) -> list[Tensor]:
    """The tensors of a teacher's output that change at every step."""
    if teacher is None:
        return []
    return [teacher.logits, *([] if teacher.members is None else [teacher.members]), *teacher.features.values()]


def _replaced(teacher: TeacherOutput, tensors: Sequence[Tensor]) -> TeacherOutput:
    """A teacher's output with its changing tensors (see `_changing`) replaced."""
    rest = list(tensors)
    logits, members = rest.pop(0), None if teacher.members is None else rest.pop(0)
    features = dict(zip(teacher.features, rest, strict=True))
    return dataclasses.replace(teacher, logits=logits, members=members, features=features)


def _static(
    inputs: Sequence[Tensor], batch: Batch, teacher: TeacherOutput | None
) -> tuple[_StaticBatch, TeacherOutput | None]:
    """What a captured step computes: a batch and a teacher's output in the memory of these inputs."""
    x, y, index, *rest = inputs
    mixed = None
    if batch.mixed is not None:
        mixed, rest = Mixed(*rest[:2]), rest[2:]
    return (
        _StaticBatch(x, y, index, batch.views, mixed, batch.label_smoothing),
        None if teacher is None else _replaced(teacher, rest),
    )


@dataclass(frozen=True)
class _StaticBatch:
    """The parts of a batch that can be captured: tensors in the same memory at every step, and constants."""

    x: Tensor
    y: Tensor
    index: Tensor
    views: int
    mixed: Mixed | None
    label_smoothing: float

    cross_entropy = Batch.cross_entropy
    part = Batch.part

    def __getattr__(self, name: str) -> Any:
        raise NotCapturableError(
            f"the method reads batch.{name}, which changes from step to step; captured, its first value would stay"
        )


class GraphedTeacher(LiveTeacher):
    """A live teacher on a CUDA device whose forward pass is one graph, for batches of the size of the first one.

    Where the capture fails, which is a warning, its forward passes are ordinary ones.
    """

    _graph: torch.cuda.CUDAGraph | None = None
    _has_failed = False

    def __call__(self, batch: Batch) -> TeacherOutput:
        """The logits on a batch, in memory of their own."""
        if self._graph is None and not self._has_failed:
            try:
                self._capture(batch)
            except Exception as error:  # of a network or a library that cannot be captured
                logger.warning("the teacher is not captured: %s: %s", type(error).__name__, error)
                self._has_failed = True
                restore_generator(batch.x.device)
        if self._graph is None or batch.x.shape != self._batch.x.shape:
            return super().__call__(batch)
        self._batch.x.copy_(batch.x)
        self._graph.replay()
        # The next replay overwrites these tensors.
        return _replaced(self._answer, [tensor.clone() for tensor in _changing(self._answer)])

    @property
    def captured(self) -> bool:
        """Whether its forward passes on batches of the first one's size are replayed."""
        return self._graph is not None

    def _capture(self, batch: Batch) -> None:
        answer = super().__call__
        self._batch = dataclasses.replace(batch, x=batch.x.clone())  # a teacher reads the images only
        stream = torch.cuda.Stream(batch.x.device)
        stream.wait_stream(torch.cuda.current_stream(batch.x.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                answer(self._batch)
        torch.cuda.current_stream(batch.x.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self._answer = answer(self._batch)
        self._graph = graph


def restore_generator(device: torch.device) -> None:
    """Gives a CUDA device's global generator a new state where a failed capture has left the old one capturing.

    The old state would refuse to draw outside of captures. Steps that were captured with it are captured again: their
    random numbers would stay the same.
    """
    try:
        torch.rand(1, device=device)
    except RuntimeError:
        index = device.index if device.index is not None else torch.cuda.current_device()
        fresh = torch.Generator(device)
        torch.cuda.default_generators[index].graphsafe_set_state(fresh.graphsafe_get_state())
        for step in list(_captured):
            step.forget()
