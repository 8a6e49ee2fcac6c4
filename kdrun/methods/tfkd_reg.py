"""Tf-KD_reg: distillation from a hand-made teacher that knows nothing but the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Distillation, Needs, StudentOutput, TeacherOutput


class TfKDReg(Distillation):
    """Tf-KD_reg (Yuan et al. 2020, eq. 8-9): `(1 - alpha) CE + alpha * multiplier * KL(p_T^d || p)`.

    As released it is label smoothing up to a constant, and T hardly acts: `softmax(p^d / T)` is nearly uniform. The
    formula as written has T on the student's side, too, without T^2: at T = 20 its term has next to no gradient.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        temperature: T, from 0.001 to 10,000; the paper asks for 20 and more.
        alpha: weight of the virtual teacher, in [0, 1].
        correct_prob: probability it gives the label, in (0, 1].
        multiplier: further weight of its term, from 0 to 1e9 (released code only; eq. 9 has none). None: the KL is per
            image and alpha its weight, in the released form a multiplier of K.
        variant: `"released"` (student at T=1, KL divided by K) or `"paper"` (T on both sides, KL per image).
    """

    name = "tfkd_reg"
    label = "Tf-KD_reg"
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
        multiplier: float | None = None,
        variant: str = "released",
    ) -> None:
        super().__init__(student)
        losses.check_temperature("temperature", temperature)
        losses.check_range("alpha", alpha, 0, 1)
        losses.check_range("correct_prob", correct_prob, 0, 1, open_low=True)
        if multiplier is not None:
            losses.check_weight("multiplier", multiplier)
        losses.check_choice("variant", variant, losses.TFKD_REG_VARIANTS)
        self.temperature = temperature
        self.hard_weight = 1 - alpha
        self.weight = alpha * (1.0 if multiplier is None else multiplier)
        self.kl_reduction = "batchmean" if multiplier is None else None
        self.correct_prob = correct_prob
        self.variant = variant
        if variant == "paper":
            self.doubtful = (self.term,)

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput | None) -> Tensor:
        return losses.virtual_teacher_loss(
            student.logits,
            batch.y,
            temperature=self.temperature,
            correct_prob=self.correct_prob,
            variant=self.variant,
            kl_reduction=self.kl_reduction,
        )

    @classmethod
    def about_sweep(cls, option: str, settings: Sequence[Mapping[str, Any]], num_classes: int) -> str | None:
        if option != "temperature" or any(each["variant"] != "released" for each in settings):
            return None
        targets = {
            each["temperature"]: losses.virtual_teacher_target(
                num_classes, temperature=each["temperature"], correct_prob=each["correct_prob"]
            )
            for each in settings
        }
        low, high = min(targets), max(targets)
        return (
            f"method.temperature: tfkd_reg as released is label smoothing; its target on the label is "
            f"{targets[low]:.4f} at T={low:g}, {targets[high]:.4f} at T={high:g} (uniform: {1 / num_classes:.4f})"
        )
