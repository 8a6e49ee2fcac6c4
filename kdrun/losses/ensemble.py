"""Soft targets from several teachers (Hinton, Vinyals, Dean 2015)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.base import check_choice, check_logits, check_range, full_precision, kl

ENSEMBLE_MEANS = ("arithmetic", "geometric")


@full_precision
def ensemble_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, mean: str = "arithmetic"
) -> Tensor:
    """`T^2 KL(p_T^ensemble || p_T^student)`, p_T^ensemble a mean of the teachers' softened outputs.

    Args:
        student_logits: `[N, K]`.
        teacher_logits: `[M, N, K]`, of M teachers; no gradient flows into them.
        temperature: T > 0, for every teacher and the student.
        mean: `"arithmetic"`, of the probabilities. `"geometric"`, normalised: the softmax of the mean logits.

    Raises:
        ValueError: shapes that do not fit, `temperature <= 0`, an unknown `mean`.
    """
    check_range("temperature", temperature, 0, open_low=True)
    check_choice("mean", mean, ENSEMBLE_MEANS)
    check_logits(student_logits)
    if teacher_logits.shape[1:] != student_logits.shape or not len(teacher_logits):
        raise ValueError(
            f"teacher logits must be [M, N, K] of at least one teacher for student logits "
            f"{list(student_logits.shape)}, got {list(teacher_logits.shape)}"
        )
    softened = F.log_softmax(teacher_logits.detach() / temperature, dim=2)
    if mean == "arithmetic":
        target = softened.logsumexp(dim=0) - math.log(len(softened))
    else:
        target = F.log_softmax(softened.mean(dim=0), dim=1)
    return temperature**2 * kl(target, student_logits / temperature, "batchmean")
