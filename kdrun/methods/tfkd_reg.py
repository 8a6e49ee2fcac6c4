"""Tf-KD_reg: distillation from a hand-made teacher that depends on the label alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Needs, StudentOutput, TeacherOutput
from kdrun.methods.facts import Options, Weights
from kdrun.methods.kd import Blend


class TfKDReg(Blend):
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
    whole_batch = False

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
        super().__init__(student, alpha=alpha, multiplier=multiplier)
        losses.check_temperature("temperature", temperature)
        losses.check_range("correct_prob", correct_prob, 0, 1, open_low=True)
        losses.check_choice("variant", variant, losses.TFKD_REG_VARIANTS)
        self.temperature = temperature
        self.kl_reduction = "batchmean" if multiplier is None else None
        self.correct_prob = correct_prob
        self.variant = variant
        if variant == "paper":
            self.doubtful = (self.term,)

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        return losses.virtual_teacher_loss(
            student.logits,
            batch.y,
            temperature=self.temperature,
            correct_prob=self.correct_prob,
            variant=self.variant,
            kl_reduction=self.kl_reduction,
        )

    @classmethod
    def divides_by_classes(cls, options: Options) -> bool:
        return options["variant"] == "released" and options["multiplier"] is not None

    @classmethod
    def effective_weights(cls, options: Options, num_classes: int) -> Weights | None:
        """As released the objective is `c LSR(K w u / c)`, with `u = softmax(p^d / T)` on a wrong class."""
        weights = cls.blend_weights(options, num_classes)
        if options["variant"] != "released":
            return weights
        temperature, correct = options["temperature"], options["correct_prob"]
        wrong = math.exp((1 - correct) / (num_classes - 1) / temperature)
        epsilon = num_classes * weights.share * wrong / (math.exp(correct / temperature) + (num_classes - 1) * wrong)
        return dataclasses.replace(weights, epsilon=epsilon, is_smoothing=True)

    @classmethod
    def objective_text(cls, options: Options, num_classes: int) -> str:
        weights = cls.blend_weights(options, num_classes)
        side = ", student at T=1" if options["variant"] == "released" else ""
        return f"{weights.hard:.4g} CE + {weights.soft:.4g} KL, T={options['temperature']:g}{side}"

    @classmethod
    def about_sweep(cls, option: str, settings: Sequence[Options], num_classes: int) -> str | None:
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
