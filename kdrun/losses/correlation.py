"""Correlation in place of divergence: DIST (Huang et al., NeurIPS 2022, "from a stronger teacher")."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.base import check_range, full_precision
from kdrun.losses.soft_targets import check_same_shape

PEARSON_EPSILON = 1e-8


def pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Pearson's correlation of a and b along a dimension; 0 where one of them is constant, as released."""
    a, b = a - a.mean(dim=dim, keepdim=True), b - b.mean(dim=dim, keepdim=True)
    lengths: Tensor = a.norm(dim=dim) * b.norm(dim=dim)
    return (a * b).sum(dim=dim) / (lengths + PEARSON_EPSILON)


@full_precision
def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """`beta L_inter + gamma L_intra` of the softened probabilities `p [N, K]` of student and teacher.

    L_inter is 1 minus the correlation over the classes, averaged over the images; L_intra is 1 minus the correlation
    over the images of the batch, averaged over the classes. It is 0 for any student whose probabilities are the
    teacher's up to a shift and a positive factor.

    Args:
        student_logits: `[N, K]`.
        teacher_logits: `[N, K]`; no gradient flows into them.
        temperature: T > 0, on both sides. No factor T^2: a correlation does not shrink when T grows.
        beta: weight of the relation between classes, at least 0.
        gamma: weight of the relation between images, at least 0.

    Raises:
        ValueError: shapes that differ, or an option outside these ranges.
    """
    check_range("temperature", temperature, 0, open_low=True)
    check_range("beta", beta, 0)
    check_range("gamma", gamma, 0)
    check_same_shape(student_logits, teacher_logits)
    student = F.softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits.detach() / temperature, dim=1)
    inter = 1 - pearson(student, teacher, dim=1).mean()
    intra = 1 - pearson(student, teacher, dim=0).mean()
    return beta * inter + gamma * intra
