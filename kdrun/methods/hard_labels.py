"""Methods that learn from the labels alone: cross-entropy, and label smoothing."""

from __future__ import annotations

from torch import nn

from kdrun import losses
from kdrun.methods.base import Batch, Method, Objective, TeacherOutput


class CE(Method):
    """Plain cross-entropy: the baseline of every table."""

    name = "ce"

    def forward(self, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        logits = self.student(batch.x)
        loss = losses.cross_entropy(logits, batch.y)
        return Objective(loss, logits, {"ce": loss})


class LSR(Method):
    """Label-smoothing regularisation (Szegedy et al. 2016; Yuan et al. 2020, eq. 1-2).

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        epsilon: probability mass taken from the label, in [0, 1].
        spread: `"uniform"` (the equation) or `"others"` (the released Tf-KD code), see
            `kdrun.losses.label_smoothing_loss`.
    """

    name = "lsr"

    def __init__(self, student: nn.Module, *, epsilon: float = 0.1, spread: str = "uniform") -> None:
        super().__init__(student)
        losses.check_range("epsilon", epsilon, 0, 1)
        losses.check_choice("spread", spread, losses.SPREADS)
        self.epsilon = epsilon
        self.spread = spread

    def forward(self, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        logits = self.student(batch.x)
        loss = losses.label_smoothing_loss(logits, batch.y, epsilon=self.epsilon, spread=self.spread)
        return Objective(loss, logits, {"lsr": loss})
