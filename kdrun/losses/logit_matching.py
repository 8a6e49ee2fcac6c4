"""Matching logits: what distillation tends to at high temperature (Hinton, Vinyals, Dean 2015, part 2.1)."""

from __future__ import annotations

from torch import Tensor

from kdrun.losses.base import check_choice, full_precision
from kdrun.losses.soft_targets import check_same_shape

CLASS_REDUCTIONS = ("mean", "sum")


@full_precision
def logit_matching_loss(student_logits: Tensor, teacher_logits: Tensor, *, class_reduction: str = "mean") -> Tensor:
    """`1/2 ||z - v||^2` per image, of logits z and v whose mean over the classes is removed.

    Removing the mean loses nothing: a softmax does not see it. As T grows, `soft_target_loss` tends to the mean form,
    and K times it to the sum, in value and gradient.

    Args:
        student_logits: z, `[N, K]`.
        teacher_logits: v, `[N, K]`; no gradient flows into them.
        class_reduction: `"mean"` divides by K, `"sum"` does not.

    Raises:
        ValueError: shapes that differ, an unknown `class_reduction`.
    """
    check_choice("class_reduction", class_reduction, CLASS_REDUCTIONS)
    check_same_shape(student_logits, teacher_logits)
    difference = student_logits - teacher_logits.detach()
    centred = difference - difference.mean(dim=1, keepdim=True)
    squares = centred.square()
    return squares.mean() / 2 if class_reduction == "mean" else squares.sum(dim=1).mean() / 2
