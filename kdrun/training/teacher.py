"""Sources of a teacher's output for the batches of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from kdrun.methods.base import Batch, Needs, TeacherOutput
from kdrun.taps import tapped
from kdrun.training.conversion import Conversion
from kdrun.training.folding import folded


class TeacherSource(Protocol):
    """Returns the teacher's output for a batch, computed once for all students in lockstep."""

    def __call__(self, batch: Batch) -> TeacherOutput: ...

    def end_epoch(self) -> None:
        """Called after an epoch's last batch."""
        ...


LOGITS = Needs(logits=True)


class LiveTeacher:
    """Runs the frozen teacher on every batch: exact for every augmentation law.

    It computes with a copy of the network that takes no gradient, its BatchNorm folded into the convolutions, in
    bf16 throughout where the run is in bf16; the network itself is not touched.

    Args:
        model: the trained teacher, on the device of the batches.
        autocast: the context it computes in, that of the run.
        precision: `fp32` or `bf16`, that of the run.
        needs: those of all methods together; by default logits.
        conversion: of the views, for a teacher that was trained on other images than the student's.
        same_task: whether it was trained on the student's classes.
    """

    def __init__(
        self,
        model: nn.Module,
        autocast: AbstractContextManager[None],
        precision: str = "fp32",
        needs: Needs = LOGITS,
        *,
        conversion: Conversion | None = None,
        same_task: bool = True,
    ) -> None:
        self._taps = needs.features
        self._weights: dict[str, Tensor] = dict(model.state_dict()) if needs.weights else {}
        self._model = folded(model)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._model.to(self._dtype)  # once, not in autocast at every step
        self._autocast = autocast
        self._conversion = conversion
        self._same_task = same_task

    # Not inference_mode: its tensors cannot take part in the student's backward.
    @torch.no_grad()
    def __call__(self, batch: Batch) -> TeacherOutput:
        x = batch.x if self._conversion is None else self._conversion(batch.x)
        with self._autocast, tapped(self._model, self._taps) as features:
            logits = self._model(x.to(self._dtype) if x.is_floating_point() else x)
        return TeacherOutput(logits, features, self._weights, same_task=self._same_task)

    def end_epoch(self) -> None:
        """Does nothing."""


class SeveralTeachers:
    """Several teachers, each in its turn; the output has the logits of their mean probabilities, and of each member."""

    def __init__(self, sources: Sequence[TeacherSource]) -> None:
        self._sources = sources

    def __call__(self, batch: Batch) -> TeacherOutput:
        members = torch.stack([source(batch).logits.float() for source in self._sources])
        mean = members.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(members))
        return TeacherOutput(mean, members=members)

    def end_epoch(self) -> None:
        """Ends that of each."""
        for source in self._sources:
            source.end_epoch()
