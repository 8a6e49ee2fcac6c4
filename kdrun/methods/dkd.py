"""Decoupled knowledge distillation: the soft targets of the true class and of the others, weighed apart."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun import losses
from kdrun.limits import MOST_EPOCHS
from kdrun.methods.base import Batch, Distillation, StudentOutput, TeacherOutput
from kdrun.methods.kd import maybe_standardized


class DKD(Distillation):
    """DKD (Zhao et al., CVPR 2022): `hard_weight CE + weight * min(epoch / warmup, 1) (alpha TCKD + beta NCKD)`.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        temperature: T, from 0.001 to 10,000, on both sides.
        alpha: weight of TCKD, the true class against the others, from 0 to 1e9.
        beta: weight of NCKD, what is said about the others, from 0 to 1e9.
        warmup_epochs: the term grows linearly over these first epochs of the run, as released; 0: at once.
        hard_weight: of the cross-entropy, from 0 to 1e9.
        weight: of the term, from 0 to 1e9.
        standardize: both networks' logits are standardised first, see `kdrun.losses.standardized`.
    """

    name = "dkd"
    label = "DKD"
    whole_batch = False

    def __init__(
        self,
        student: nn.Module,
        *,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        warmup_epochs: int = 20,
        hard_weight: float = 1.0,
        weight: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(student)
        self.weigh(weight, hard_weight)
        losses.check_temperature("temperature", temperature)
        losses.check_weight("alpha", alpha)
        losses.check_weight("beta", beta)
        losses.check_range("warmup_epochs", warmup_epochs, 0, MOST_EPOCHS)
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta
        self.warmup_epochs = warmup_epochs
        self.standardize = standardize

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        logits, targets = maybe_standardized(self.standardize, student.logits, teacher.logits)
        term = losses.dkd_loss(logits, targets, batch.y, temperature=self.temperature, alpha=self.alpha, beta=self.beta)
        if not self.warmup_epochs:
            return term
        return min((batch.epoch + 1) / self.warmup_epochs, 1.0) * term  # the released code counts epochs from 1
