"""Where a method's teacher output comes from. Each source says what it is exact for, and refuses the rest."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import nn

from kdrun.methods.base import Batch, TeacherOutput
from kdrun.training.folding import folded


class TeacherSource(Protocol):
    """Answers a batch with what the teacher says about its very views, in lockstep: once for all who ask."""

    def __call__(self, batch: Batch) -> TeacherOutput: ...

    def end_epoch(self) -> None:
        """Called when an epoch's last batch has been answered."""
        ...


class LiveTeacher:
    """Runs the frozen teacher on every batch: exact for every augmentation law.

    It computes with a copy of the network that takes no gradient, its BatchNorm folded into the convolutions, in
    bf16 throughout where the run is in bf16; the network itself is not touched.

    Args:
        model: the trained teacher, on the device of the batches.
        autocast: the context it computes in, that of the run.
        precision: `fp32` or `bf16`, that of the run.
    """

    def __init__(self, model: nn.Module, autocast: AbstractContextManager[None], precision: str = "fp32") -> None:
        self._model = folded(model)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._model.to(self._dtype)  # once, not in autocast at every step
        self._autocast = autocast

    # Not inference_mode: its tensors cannot take part in the student's backward.
    @torch.no_grad()
    def __call__(self, batch: Batch) -> TeacherOutput:
        with self._autocast:
            return TeacherOutput(logits=self._model(batch.x.to(self._dtype)))

    def end_epoch(self) -> None:
        """Nothing is kept from batch to batch."""
