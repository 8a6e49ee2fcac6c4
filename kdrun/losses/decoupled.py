"""Decoupled knowledge distillation (Zhao et al., CVPR 2022): the soft-target loss in its two parts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.base import check_logits, check_range, full_precision, kl
from kdrun.losses.soft_targets import check_same_shape


def other_classes(logits: Tensor, classes: Tensor) -> Tensor:
    """Indices `[N, K-1]` of all classes but one an image, `classes [N]`."""
    rest = torch.arange(logits.shape[1] - 1, device=logits.device)
    return rest + (rest >= classes[:, None])


@full_precision
def target_class_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """TCKD: `T^2 KL(b^teacher || b^student)` of the two probabilities b = (true class, all the others).

    With NCKD of `other_classes_loss` and the teacher's softened probability p_t of the true class,
    `soft_target_loss = TCKD + (1 - p_t) NCKD` for each image.

    Args:
        student_logits: `[N, K]`.
        teacher_logits: `[N, K]`; no gradient flows into them.
        labels: `[N]`, int64.
        temperature: T > 0, on both sides.

    Raises:
        ValueError: shapes that differ, a type, class index or option outside these ranges.
    """
    teacher, student = _softened(student_logits, teacher_logits, labels, temperature)
    return temperature**2 * kl(F.log_softmax(_binary(teacher, labels), dim=1), _binary(student, labels), "batchmean")


@full_precision
def other_classes_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """NCKD: `T^2 KL` of the softmax over all classes but the true one.

    The released code keeps the true class and lowers its logit by 1000; here it is left out.

    Args:
        student_logits: `[N, K]`.
        teacher_logits: `[N, K]`; no gradient flows into them.
        labels: `[N]`, int64.
        temperature: T > 0, on both sides.

    Raises:
        ValueError: shapes that differ, a type, class index or option outside these ranges.
    """
    teacher, student = _softened(student_logits, teacher_logits, labels, temperature)
    others = other_classes(student, labels)
    return temperature**2 * kl(F.log_softmax(teacher.gather(1, others), dim=1), student.gather(1, others), "batchmean")


def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float, alpha: float, beta: float
) -> Tensor:
    """`alpha TCKD + beta NCKD` (Zhao et al. 2022), each with its factor T^2.

    Args:
        student_logits: `[N, K]`.
        teacher_logits: `[N, K]`; no gradient flows into them.
        labels: `[N]`, int64.
        temperature: T > 0, on both sides.
        alpha: weight of the true class against the others, at least 0.
        beta: weight of the loss on the other classes, at least 0.

    Raises:
        ValueError: shapes that differ, a type, class index or option outside these ranges.
    """
    check_range("alpha", alpha, 0)
    check_range("beta", beta, 0)
    tckd = target_class_loss(student_logits, teacher_logits, labels, temperature=temperature)
    nckd = other_classes_loss(student_logits, teacher_logits, labels, temperature=temperature)
    return alpha * tckd + beta * nckd


def _softened(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The logits of teacher and student, divided by T, after their checks."""
    check_range("temperature", temperature, 0, open_low=True)
    check_same_shape(student_logits, teacher_logits)
    check_logits(student_logits, labels)
    return teacher_logits.detach() / temperature, student_logits / temperature


def _binary(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits `[N, 2]` of the true class against all the others."""
    others = logits.gather(1, other_classes(logits, labels)).logsumexp(dim=1)
    return torch.stack([logits.gather(1, labels[:, None]).squeeze(1), others], dim=1)
