"""The Method protocol: what a training step hands to a method, and what it takes back.

The trainer knows only `objective = method(batch, teacher); objective.loss.backward()`. A method never calls a
teacher: it says in `needs` what it asks of one, and gets it as a `TeacherOutput`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Needs:
    """What a method asks of the teacher.

    Attributes:
        logits: the teacher's logits on the very views the student sees.
        own_architecture: the teacher must be another training of the student's own architecture
            (self-distillation), whatever teacher the config names.
    """

    logits: bool = False
    own_architecture: bool = False

    @property
    def teacher(self) -> bool:
        """Whether there must be a teacher at all."""
        return self.logits


@dataclass(frozen=True)
class Batch:
    """One training batch of N views.

    Attributes:
        x: images `[N, C, H, W]`, float32, normalised.
        y: labels `[N]`, int64.
        index: positions `[N]` in the training set, int64.
        epoch: counted from 0.
        step: counted from 0 within the epoch.
        progress: share of the whole schedule that lies behind, in [0, 1).
        generator: on the device of x, seeded from (seed, epoch, step): for a method's own draws.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    epoch: int
    step: int
    progress: float
    generator: torch.Generator


@dataclass(frozen=True)
class TeacherOutput:
    """What a teacher says about a batch: `logits [N, K]`, an ordinary tensor without gradient."""

    logits: Tensor


@dataclass(frozen=True)
class Objective:
    """What a method makes of a batch.

    Attributes:
        loss: the scalar to minimise.
        logits: the student's, `[N, K]`, for the training metrics.
        terms: the parts of the loss by name, before they are weighed: scalars, logged as they are.
    """

    loss: Tensor
    logits: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """Owns the student, and whatever else is learned with it. Subclasses are `methods` of the command line.

    The subclass's constructor takes the student first and its options by keyword; their types and defaults are the
    schema of `method.*`. Wrong values raise `ValueError` there, before anything is trained.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = Needs()

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    @abstractmethod
    def forward(self, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        """Returns the objective on one batch.

        Args:
            batch: the views and their labels.
            teacher: what `needs` asks for; None when it asks for nothing.
        """
