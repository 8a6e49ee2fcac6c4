"""Soft targets from a trained network: Hinton's distillation, and a network taught by its own architecture."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Distillation, Needs, StudentOutput, TeacherOutput
from kdrun.methods.facts import Options, Weights


class Blend(Distillation):
    """`(1 - alpha) CE + alpha * multiplier * term`: the blend of Hinton, Vinyals, Dean 2015.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        alpha: weight of the term, in [0, 1].
        multiplier: further weight of the term, from 0 to 1e9; None is 1.
    """

    alone = ("alpha", "multiplier")

    def __init__(self, student: nn.Module, *, alpha: float, multiplier: float | None) -> None:
        super().__init__(student)
        losses.check_range("alpha", alpha, 0, 1)
        if multiplier is not None:
            losses.check_weight("multiplier", multiplier)
        self.hard_weight, self.weight = self.weighting({"alpha": alpha, "multiplier": multiplier})

    @classmethod
    def weighting(cls, options: Options) -> tuple[float, float]:
        multiplier = options.get("multiplier")
        return 1 - options["alpha"], options["alpha"] * (1.0 if multiplier is None else multiplier)

    @classmethod
    def divides_by_classes(cls, options: Options) -> bool:
        """Whether the term is averaged over the K classes, as in the released Tf-KD code."""
        return False

    @classmethod
    def rescaled(cls, options: Options, num_classes: int, other: int) -> dict[str, Any]:
        divided = cls.divides_by_classes(options)
        return {"multiplier": options["multiplier"] * other / num_classes} if divided else {}

    @classmethod
    def blend_weights(cls, options: Options, num_classes: int) -> Weights:
        """The weights of cross-entropy and term, the KL per image."""
        hard, weight = cls.weighting(options)
        return Weights(hard, weight / (num_classes if cls.divides_by_classes(options) else 1))


class SoftTargets(Blend):
    """A blend with a term at temperature T, from 0.001 to 10,000."""

    def __init__(
        self, student: nn.Module, *, temperature: float = 4.0, alpha: float = 0.9, multiplier: float = 1.0
    ) -> None:
        super().__init__(student, alpha=alpha, multiplier=multiplier)
        losses.check_temperature("temperature", temperature)
        self.temperature = temperature


class KD(SoftTargets):
    """Knowledge distillation (Hinton, Vinyals, Dean 2015): `(1 - alpha) CE + alpha * multiplier * T^2 KL`.

    Re-KD is this with a small teacher, De-KD with a poorly trained one (`teacher.stop_epoch`); Yuan et al. 2020
    ran both, as released, with `kl_reduction="mean"`.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        temperature: T, from 0.001 to 10,000, on both sides.
        alpha: weight of the soft targets, in [0, 1].
        kl_reduction: `"batchmean"`, the KL per image, or `"mean"`, which divides it by K too.
        multiplier: further weight of the soft-target term, from 0 to 1e9.
        standardize: both networks' logits are standardised first, see `kdrun.losses.standardized`.
    """

    name = "kd"
    label = "KD"
    label_kind = "mixed"
    term = "kd"
    whole_batch = False

    def __init__(
        self,
        student: nn.Module,
        *,
        temperature: float = 4.0,
        alpha: float = 0.9,
        kl_reduction: str = "batchmean",
        multiplier: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(student, temperature=temperature, alpha=alpha, multiplier=multiplier)
        losses.check_choice("kl_reduction", kl_reduction, losses.KL_REDUCTIONS)
        self.kl_reduction = kl_reduction
        self.standardize = standardize

    @classmethod
    def divides_by_classes(cls, options: Options) -> bool:
        return options.get("kl_reduction") == "mean"

    @classmethod
    def effective_weights(cls, options: Options, num_classes: int) -> Weights | None:
        weights = cls.blend_weights(options, num_classes)
        return dataclasses.replace(weights, epsilon=weights.share)

    @classmethod
    def objective_text(cls, options: Options, num_classes: int) -> str:
        weights = cls.effective_weights(options, num_classes)
        if weights is None:
            return super().objective_text(options, num_classes)
        return f"{weights.hard:.4g} CE + {weights.soft:.4g} T²KL, T={options['temperature']:g}"

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        targets = self.target_logits(student.logits, teacher)
        logits, targets = maybe_standardized(self.standardize, student.logits, targets)
        return losses.soft_target_loss(logits, targets, temperature=self.temperature, kl_reduction=self.kl_reduction)

    def target_logits(self, logits: Tensor, teacher: TeacherOutput) -> Tensor:
        """The target logits `[N, K]`: the teacher's."""
        return teacher.logits


class TfKDSelf(KD):
    """Tf-KD_self (Yuan et al. 2020, eq. 7): KD from a pre-trained copy of the student's own architecture."""

    name = "tfkd_self"
    label = "Tf-KD_self"
    scheme = "self"
    needs = Needs(logits=True, own_architecture=True)
    whole_batch = False


class TAKD(KD):
    """Teacher-assistant distillation (Mirzadeh et al. 2020): KD from a network of medium size, itself distilled by KD.

    The step is KD's; what makes it TAKD is its teacher, an assistant with a teacher of its own.
    """

    name = "takd"
    label = "TAKD"
    needs = Needs(logits=True, assistant=True)
    whole_batch = False


class KDUniform(KD):
    """KD from a uniform teacher, `p^t(k) = 1/K`: the control without the teacher's information.

    At T=1 it is scaled label smoothing; above, it draws the student's softened output to uniform.
    """

    name = "kd_uniform"
    label = "KD, uniform"
    scheme = "self"
    needs = Needs()
    whole_batch = False

    def target_logits(self, logits: Tensor, teacher: TeacherOutput) -> Tensor:
        return torch.zeros_like(logits)


def maybe_standardized(standardize: bool, *logits: Tensor) -> tuple[Tensor, ...]:
    """The logits of student and teacher, standardised if `standardize`."""
    return tuple(losses.standardized(each) for each in logits) if standardize else logits
