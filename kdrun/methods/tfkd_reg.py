"""Tf-KD_reg: distillation from a hand-made teacher that knows nothing but the label."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Distillation, Needs, StudentOutput, TeacherOutput


class TfKDReg(Distillation):
    """Tf-KD_reg (Yuan et al. 2020, eq. 8-9): `(1 - alpha) CE + alpha * multiplier * KL(p_T^d || p)`.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        temperature: T > 0; the paper asks for 20 and more.
        alpha: weight of the virtual teacher, in [0, 1].
        correct_prob: probability it gives the label, in (0, 1].
        multiplier: further weight of its term, at least 0 (released code only; eq. 9 has none).
        variant: `"paper"` (T on both sides, KL per image) or `"released"` (student at T=1, KL divided by K).
    """

    name = "tfkd_reg"
    scheme = "self"
    needs = Needs()
    term = "virtual_teacher"
    alone = ("alpha", "multiplier")

    def __init__(
        self,
        student: nn.Module,
        *,
        temperature: float = 20.0,
        alpha: float = 0.1,
        correct_prob: float = 0.99,
        multiplier: float = 1.0,
        variant: str = "paper",
    ) -> None:
        super().__init__(student)
        losses.check_range("temperature", temperature, 0, open_low=True)
        losses.check_range("alpha", alpha, 0, 1)
        losses.check_range("correct_prob", correct_prob, 0, 1, open_low=True)
        losses.check_range("multiplier", multiplier, 0)
        losses.check_choice("variant", variant, losses.TFKD_REG_VARIANTS)
        self.temperature = temperature
        self.hard_weight = 1 - alpha
        self.weight = alpha * multiplier
        self.correct_prob = correct_prob
        self.variant = variant

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput | None) -> Tensor:
        return losses.virtual_teacher_loss(
            student.logits,
            batch.y,
            temperature=self.temperature,
            correct_prob=self.correct_prob,
            variant=self.variant,
        )
