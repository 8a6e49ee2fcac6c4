"""Matching the teacher's logits themselves: distillation at high temperature."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, StudentOutput, TeacherOutput
from kdrun.methods.kd import Blend, maybe_standardized


class LogitMatching(Blend):
    """Logit matching (Hinton, Vinyals, Dean 2015, part 2.1): `(1 - alpha) CE + alpha * multiplier * 1/2 ||z - v||^2`.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        alpha: weight of the matching, in [0, 1].
        class_reduction: `"mean"` divides the squares by K, which is what KD tends to; `"sum"` does not.
        multiplier: further weight of the matching, from 0 to 1e9.
        standardize: both networks' logits are standardised first, see `kdrun.losses.standardized`.
    """

    name = "logit_matching"
    label = "logit matching"
    label_kind = "mixed"
    whole_batch = False

    def __init__(
        self,
        student: nn.Module,
        *,
        alpha: float = 0.9,
        class_reduction: str = "mean",
        multiplier: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(student, alpha=alpha, multiplier=multiplier)
        losses.check_choice("class_reduction", class_reduction, losses.CLASS_REDUCTIONS)
        self.class_reduction = class_reduction
        self.standardize = standardize

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        logits, targets = maybe_standardized(self.standardize, student.logits, teacher.logits)
        return losses.logit_matching_loss(logits, targets, class_reduction=self.class_reduction)
