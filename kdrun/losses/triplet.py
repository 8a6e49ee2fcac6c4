"""The triplet loss between a teacher's and a student's outputs (Oki et al., IJCNN 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from kdrun.losses.base import check_range, full_precision
from kdrun.losses.soft_targets import check_same_shape


def draw_negatives(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each image another one of the batch with another label, uniformly at random.

    Args:
        labels: `[N]`.
        generator: on their device.

    Returns:
        Positions in the batch `[N]`, and which of them are of another label `[N]`: false where the batch has none.
    """
    other = labels[:, None] != labels
    keys = torch.rand(other.shape, generator=generator, device=labels.device)
    return keys.masked_fill(~other, -1.0).argmax(dim=1), other.any(dim=1)


@full_precision
def triplet_loss(
    student_logits: Tensor, teacher_logits: Tensor, negatives: Tensor, exists: Tensor, *, margin: float
) -> Tensor:
    """`max(0, ||t(x_a) - s(x_a)|| - ||t(x_a) - s(x_n)|| + margin)`, of raw logits, Euclidean (Oki et al. 2020).

    The anchor is the teacher's output t on an image, the positive the student's s on the same image, the negative the
    student's on an image of another class. (The released code adds 1e-6 to every difference.)

    Args:
        student_logits: `[N, K]`.
        teacher_logits: `[N, K]`; no gradient flows into them.
        negatives: positions in the batch of the negative images, `[N]`.
        exists: `[N]`: where false there is no triplet, which counts as 0.
        margin: at least 0.

    Raises:
        ValueError: shapes that differ, `margin` below 0.
    """
    check_range("margin", margin, 0)
    check_same_shape(student_logits, teacher_logits)
    anchor = teacher_logits.detach()
    positive = (anchor - student_logits).norm(dim=1)
    # index_select: the backward of student_logits[negatives] adds in an order that varies from run to run.
    other = student_logits.index_select(0, negatives)
    negative = (anchor - other).norm(dim=1)
    hinge: Tensor = (positive - negative + margin).relu() * exists
    return hinge.mean()
