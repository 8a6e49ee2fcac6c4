"""Methods that learn from the labels alone: cross-entropy, and label smoothing."""

from __future__ import annotations

from torch import nn

from kdrun import losses
from kdrun.methods.base import Batch, Method, Objective, StudentOutput, TeacherOutput
from kdrun.methods.facts import Options, added

SMALLEST_SCALE = 1e-9
"""Of a loss; below, its gradients begin to vanish in float32."""


class CE(Method):
    """Cross-entropy: the baseline of every table.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        scale: factor of the loss, from 1e-9 to 1e9. With weight decay it is no mere change of learning rate: it is the
            control for a distillation loss whose weights do not add up to 1.
    """

    name = "ce"
    label = "CE"
    label_kind = "mixed"
    whole_batch = False

    def __init__(self, student: nn.Module, *, scale: float = 1.0) -> None:
        super().__init__(student)
        losses.check_weight("scale", scale, low=SMALLEST_SCALE)
        self.scale = scale

    def objective(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        ce = batch.cross_entropy(student.logits)
        return Objective.of(student.logits, {"ce": ce}, {"ce": self.scale})

    @classmethod
    def objective_text(cls, options: Options, num_classes: int) -> str:
        return added((options["scale"], "CE"))


class LSR(Method):
    """Label-smoothing regularisation (Szegedy et al. 2016; Yuan et al. 2020, eq. 1-2).

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        epsilon: probability mass taken from the label, in [0, 1].
        spread: `"uniform"` (the equation) or `"others"` (the released Tf-KD code), see
            `kdrun.losses.label_smoothing_loss`.
        scale: factor of the loss, from 1e-9 to 1e9, see `CE`.
    """

    name = "lsr"
    label = "LSR"
    whole_batch = False

    def __init__(
        self, student: nn.Module, *, epsilon: float = 0.1, spread: str = "uniform", scale: float = 1.0
    ) -> None:
        super().__init__(student)
        losses.check_range("epsilon", epsilon, 0, 1)
        losses.check_choice("spread", spread, losses.SPREADS)
        losses.check_weight("scale", scale, low=SMALLEST_SCALE)
        self.epsilon = epsilon
        self.spread = spread
        self.scale = scale

    def objective(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        lsr = losses.label_smoothing_loss(student.logits, batch.y, epsilon=self.epsilon, spread=self.spread)
        return Objective.of(student.logits, {"lsr": lsr}, {"lsr": self.scale})

    @classmethod
    def objective_text(cls, options: Options, num_classes: int) -> str:
        others = ", on the wrong classes" if options["spread"] == "others" else ""
        return added((options["scale"], f"LSR, ε={options['epsilon']:.4g}{others}"))
