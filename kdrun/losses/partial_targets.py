"""Parts of a teacher's knowledge (Tang et al. 2020): its most probable classes, its confidence, class similarity.

Each is `T^2 KL(rho || p_T)` per image, where rho replaces the teacher's softened output.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.base import check_logits, check_range, full_precision, kl
from kdrun.losses.soft_targets import check_same_shape


def check_k(k: int | float, num_classes: int | None = None) -> None:
    """Raises `ValueError` unless k is a number of classes from 1 to K, or a fraction of them in (0, 1]."""
    if isinstance(k, float):
        if not 0 < k <= 1:
            raise ValueError(f"k={k!r}: must be a number of classes (an integer), or a fraction more than 0, at most 1")
    elif k < 1:
        raise ValueError(f"k={k!r}: must be at least 1 class, or a fraction of them such as 0.25")
    elif num_classes is not None and k > num_classes:
        raise ValueError(f"k={k!r}: must be at most the number of classes, {num_classes}")


def num_kept(k: int | float, num_classes: int) -> int:
    """How many of K classes k is: a fraction of them is rounded, to one at least."""
    check_k(k, num_classes)
    return max(1, round(k * num_classes)) if isinstance(k, float) else k


@full_precision
def topk_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, k: int | float, renormalize: bool = True
) -> Tensor:
    """KD-topk: soft targets on the teacher's k most probable classes alone (Tang et al. 2020).

    rho is the teacher's softened output on these classes, divided by its mass m there, and 0 on the others: a softmax
    over the kept logits. The student's softmax is over all K classes, so its target on the others is 0.

    Args:
        student_logits: `[N, K]`.
        teacher_logits: `[N, K]`; no gradient flows into them.
        temperature: T > 0, on both sides.
        k: a number of classes (int) from 1 to K, or a fraction of them (float) in (0, 1], rounded, one at least.
        renormalize: without it rho keeps its mass m < 1. The cross-entropy with such a rho has the gradient of
            `m KL(rho / m || p_T)`, which is what is computed: an image counts for less when much of the teacher's
            output is cut off.

    Raises:
        ValueError: shapes that differ, or an option outside these ranges.
    """
    check_range("temperature", temperature, 0, open_low=True)
    check_same_shape(student_logits, teacher_logits)
    softened = teacher_logits.detach() / temperature
    kept, classes = softened.topk(num_kept(k, softened.shape[1]), dim=1)
    target = F.log_softmax(kept, dim=1)
    student = F.log_softmax(student_logits / temperature, dim=1).gather(1, classes)
    divergence = (target.exp() * (target - student)).sum(dim=1)
    if not renormalize:
        divergence = divergence * (kept.logsumexp(dim=1) - softened.logsumexp(dim=1)).exp()
    return temperature**2 * divergence.mean()


@full_precision
def true_class_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """KD-pt: soft targets with the teacher's confidence in the true class alone (Tang et al. 2020).

    rho is p_t, the teacher's softened probability, on the label and `(1 - p_t) / (K - 1)` on each other class.

    Args:
        student_logits: `[N, K]`.
        teacher_logits: `[N, K]`; no gradient flows into them.
        labels: `[N]`, int64.
        temperature: T > 0, on both sides.

    Raises:
        ValueError: shapes that differ, a type, class index or option outside these ranges.
    """
    check_range("temperature", temperature, 0, open_low=True)
    check_same_shape(student_logits, teacher_logits)
    check_logits(student_logits, labels)
    label = labels[:, None]
    softened = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    # The rest is summed, not 1 - p_t: where the teacher is sure that would be 0.
    rest = softened.scatter(1, label, float("-inf")).logsumexp(dim=1, keepdim=True)
    target = (rest - math.log(softened.shape[1] - 1)).expand_as(softened).scatter(1, label, softened.gather(1, label))
    return temperature**2 * kl(target, student_logits / temperature, "batchmean")


@full_precision
def class_similarity_loss(
    student_logits: Tensor,
    class_weights: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    similarity_temperature: float,
    normalize: bool = True,
) -> Tensor:
    """KD-sim: soft targets from the similarity of the classes to the teacher alone (Tang et al. 2020).

    rho is the softmax of the dot products of the true class's weights with those of every class.

    Args:
        student_logits: `[N, K]`.
        class_weights: of the teacher's classifier, `[K, D]`, a row for each class; no gradient flows into them.
        labels: `[N]`, int64.
        temperature: T > 0, of the student's side and the factor T^2.
        similarity_temperature: divisor of the dot products, more than 0.
        normalize: rows of length 1: cosines instead of dot products.

    Raises:
        ValueError: shapes that do not fit, a type, class index or option outside these ranges.
    """
    check_range("temperature", temperature, 0, open_low=True)
    check_range("similarity_temperature", similarity_temperature, 0, open_low=True)
    check_logits(student_logits, labels)
    if class_weights.ndim != 2 or len(class_weights) != student_logits.shape[1]:
        raise ValueError(
            f"class weights must be [K, D] with K={student_logits.shape[1]} rows, got {list(class_weights.shape)}"
        )
    rows = class_weights.detach()
    if normalize:
        rows = F.normalize(rows, dim=1)
    target = F.log_softmax(rows[labels] @ rows.T / similarity_temperature, dim=1)
    return temperature**2 * kl(target, student_logits / temperature, "batchmean")
