"""Soft targets from a teacher's logits (Hinton, Vinyals, Dean 2015), and the standardisation of logits before them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.base import (
    KL_REDUCTIONS,
    check_choice,
    check_logits,
    check_range,
    cross_entropy,
    full_precision,
    kl,
)

STANDARDIZE_EPSILON = 1e-7


def check_same_shape(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Raises `ValueError` unless both are logits of one shape `[N, K]`."""
    check_logits(student_logits)
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student and teacher logits must have the same shape [N, K], "
            f"got {list(student_logits.shape)} and {list(teacher_logits.shape)}"
        )


def blend(hard: Tensor, soft: Tensor, *, alpha: float, multiplier: float = 1.0) -> Tensor:
    """`(1 - alpha) * hard + alpha * multiplier * soft`: how every distillation loss here weighs its two terms.

    Raises:
        ValueError: `alpha` outside [0, 1], or `multiplier` negative.
    """
    check_range("alpha", alpha, 0, 1)
    check_range("multiplier", multiplier, 0)
    return (1 - alpha) * hard + alpha * multiplier * soft


@full_precision
def standardized(logits: Tensor) -> Tensor:
    """`(z - mean(z)) / (std(z) + 1e-7)` over the classes of each image (logit standardisation: Sun et al. 2024).

    Applied to both networks, it leaves the student free in the mean and the spread of its logits: the loss no longer
    changes when the teacher's logits are shifted or multiplied by a positive number.

    Args:
        logits: `[N, K]`, K at least 2; the deviation is the sample's (divided by K - 1), as released.

    Returns:
        `[N, K]`, in at least float32.

    Raises:
        ValueError: a shape or type other than that.
    """
    check_logits(logits)
    deviation = logits.std(dim=1, keepdim=True)
    return (logits - logits.mean(dim=1, keepdim=True)) / (deviation + STANDARDIZE_EPSILON)


@full_precision
def soft_target_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, kl_reduction: str = "batchmean"
) -> Tensor:
    """`T^2 KL(p_T^teacher || p_T^student)`: the soft-target term of Hinton, Vinyals, Dean 2015, part 2.

    The factor T^2 keeps the size of its gradient when T changes; as T grows it tends to matching logits
    (`||z - v||^2 / (2 K)` per image for centred logits).

    Args:
        student_logits: `[N, K]`.
        teacher_logits: `[N, K]`; no gradient flows into them.
        temperature: T > 0, on both sides.
        kl_reduction: `"batchmean"`, the KL per image (the formula). `"mean"` divides it by K too: what
            `nn.KLDivLoss()` does by default, and so the released Tf-KD code.

    Raises:
        ValueError: shapes that differ, `temperature <= 0`, an unknown `kl_reduction`.
    """
    check_range("temperature", temperature, 0, open_low=True)
    check_choice("kl_reduction", kl_reduction, KL_REDUCTIONS)
    check_same_shape(student_logits, teacher_logits)
    soft_targets = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * kl(soft_targets, student_logits / temperature, kl_reduction)


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
    kl_reduction: str = "batchmean",
    multiplier: float = 1.0,
) -> Tensor:
    """`(1 - alpha) H(q, p) + alpha * multiplier * T^2 KL(p_T^teacher || p_T^student)` (Hinton et al. 2015).

    Yuan et al. 2020, eq. 4, is this without the factor T^2; their released code has it, with
    `kl_reduction="mean"`, and a `multiplier` for Tf-KD_self.

    Args:
        student_logits: `[N, K]`.
        teacher_logits: `[N, K]`.
        labels: `[N]`, int64.
        temperature: T > 0, on both sides.
        alpha: weight of the soft targets, in [0, 1].
        kl_reduction: see `soft_target_loss`.
        multiplier: further weight of the soft-target term, at least 0.

    Raises:
        ValueError: a shape, type, class index or option outside these ranges.
    """
    hard = cross_entropy(student_logits, labels)
    soft = soft_target_loss(student_logits, teacher_logits, temperature=temperature, kl_reduction=kl_reduction)
    return blend(hard, soft, alpha=alpha, multiplier=multiplier)
