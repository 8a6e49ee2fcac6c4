"""Whole steps captured once and replayed: a CUDA device is given one graph instead of a thousand small operations.

Every student has its own stream and its own graph, so students in lockstep fill the device together. The teacher's
graph is on the stream that makes the views.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from kdrun.methods.base import Batch, Method, TeacherOutput
from kdrun.training.step import EpochMeans, Step
from kdrun.training.teacher import LiveTeacher

WARM_UP_STEPS = 3
"""Ordinary steps before the capture: they make the optimiser's state, and libraries choose their algorithms."""


logger = logging.getLogger(__name__)


class NotCapturableError(RuntimeError):
    """A method reads in Python what changes at every step, of which a graph would keep the first value."""


class GraphedStep(Step):
    """Steps on a CUDA device: forward, backward, optimiser and metrics as one graph.

    The first steps are ordinary ones, as are those on batches of another size (an epoch's last) and an epoch's first
    where the objective has several terms, whose shares it measures, or where the student is compiled. The learning
    rate is a tensor that the graph reads; the global generator's seed is read at each replay, so dropout stays a
    function of (seed, epoch, step). A method that reads `batch.progress` and the like cannot be captured: that is
    told, and its steps stay ordinary ones.

    Args:
        method: owns the student; on a CUDA device.
        optimizer: over the method's parameters, not yet stepped or restored from a checkpoint.
        autocast: the context in which the method computes.
        compiled: see `Step`; what is captured is then the compiled student.
        has_shares: see `Step`.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        autocast: AbstractContextManager[None],
        *,
        compiled: bool = False,
        has_shares: bool | None = None,
    ) -> None:
        super().__init__(method, optimizer, autocast, compiled=compiled, has_shares=has_shares)
        device = next(method.parameters()).device
        self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._capturable = True
        self._warm_up_steps = 0
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
            if "capturable" in group:
                group["capturable"] = True

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate of the steps that follow, captured ones too."""
        with torch.cuda.stream(self._stream):
            for group in self.optimizer.param_groups:
                group["lr"].fill_(lr)

    def __call__(self, batch: Batch, teacher: TeacherOutput | None, *, first: bool) -> None:
        """Moves the weights by one step of the optimiser, and counts the step's metrics; see `Step`."""
        given = [batch.x, batch.y, batch.index, *_changing(teacher)]
        self._stream.wait_stream(torch.cuda.current_stream(batch.x.device))
        with torch.cuda.stream(self._stream):
            for tensor in given:  # its memory is not given away before this stream has read it
                tensor.record_stream(self._stream)
            ordinary = first and (self._compiled or self._has_shares is not False)
            if self._graph is not None and len(batch.y) == self._full_size and not ordinary:
                for kept, tensor in zip(self._inputs, given, strict=True):
                    kept.copy_(tensor)
                self._graph.replay()
                return
            super().__call__(batch, teacher, first=first)
            self._warm_up_steps += 1
            if self._warm_up_steps == WARM_UP_STEPS and self._capturable:
                self._capture(given, teacher, batch.views)

    def _capture(self, given: list[Tensor], teacher: TeacherOutput | None, views: int) -> None:
        """Records a step without taking it: from the next one on it is replayed."""
        self._inputs = [tensor.clone() for tensor in given]
        x, y, index, *answers = self._inputs
        batch: Any = _StaticBatch(x, y, index, views)
        static = None if teacher is None else _replaced(teacher, answers)
        self.optimizer.zero_grad(set_to_none=True)  # gradients are to lie in the graph's own memory
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                super().__call__(batch, static, first=False)
            self._graph = graph
        except NotCapturableError as error:
            logger.warning("steps are not captured: %s", error)
            self._capturable = False

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


class _StaticBatch:
    """The parts of a batch that can be captured: tensors in the same memory at every step, and the number of views."""

    def __init__(self, x: Tensor, y: Tensor, index: Tensor, views: int) -> None:
        self.x = x
        self.y = y
        self.index = index
        self.views = views

    def __getattr__(self, name: str) -> Any:
        raise NotCapturableError(
            f"the method reads batch.{name}, which changes from step to step; captured, its first value would stay"
        )


class GraphedTeacher(LiveTeacher):
    """A live teacher on a CUDA device whose forward pass is one graph, for batches of the size of the first one."""

    _graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> TeacherOutput:
        """The logits on a batch, in memory of their own."""
        if self._graph is None:
            self._capture(batch)
        if batch.x.shape != self._batch.x.shape:
            return super().__call__(batch)
        assert self._graph is not None
        self._batch.x.copy_(batch.x)
        self._graph.replay()
        # The next replay writes where these were.
        return _replaced(self._answer, [tensor.clone() for tensor in _changing(self._answer)])

    def _capture(self, batch: Batch) -> None:
        answer = super().__call__
        self._batch = dataclasses.replace(batch, x=batch.x.clone())  # a teacher looks at the images alone
        stream = torch.cuda.Stream(batch.x.device)
        stream.wait_stream(torch.cuda.current_stream(batch.x.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                answer(self._batch)
        torch.cuda.current_stream(batch.x.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._answer = answer(self._batch)
