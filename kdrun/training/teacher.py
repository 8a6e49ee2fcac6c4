"""Where a method's teacher output comes from. Each source says what it is exact for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import nn

from kdrun.methods.base import Batch, TeacherOutput


class TeacherSource(Protocol):
    """Answers a batch with what the teacher says about its very views."""

    def __call__(self, batch: Batch) -> TeacherOutput: ...


class LiveTeacher:
    """Runs the frozen teacher on every batch: exact for every augmentation law.

    The teacher is put into eval mode and takes no gradient, so neither its weights nor its BatchNorm buffers move.

    Args:
        model: the trained teacher, on the device of the batches.
        autocast: the context it computes in, that of the run.
    """

    def __init__(self, model: nn.Module, autocast: AbstractContextManager[None]) -> None:
        self.model = model.eval().requires_grad_(False)
        self._autocast = autocast

    # Not inference_mode: its tensors cannot take part in the student's backward.
    @torch.no_grad()
    def __call__(self, batch: Batch) -> TeacherOutput:
        with self._autocast:
            return TeacherOutput(logits=self.model(batch.x))
