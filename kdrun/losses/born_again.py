"""The ablations of the teacher in Born-Again Networks (Furlanello et al., ICML 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.base import check_logits, full_precision, kl
from kdrun.losses.decoupled import other_classes
from kdrun.losses.soft_targets import check_same_shape


@full_precision
def confidence_weighted_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """CWTM: cross-entropy with the labels, each image weighed by the teacher's largest probability.

    The weights are divided by their sum over the batch, so a teacher equally confident in all images changes
    nothing.

    Args:
        student_logits: `[N, K]`.
        teacher_logits: `[N, K]`; no gradient flows into them.
        labels: `[N]`, int64.

    Raises:
        ValueError: shapes that differ, a type or class index outside these ranges.
    """
    check_same_shape(student_logits, teacher_logits)
    check_logits(student_logits, labels)
    confidence = F.softmax(teacher_logits.detach(), dim=1).amax(dim=1)
    return (confidence / confidence.sum() * F.cross_entropy(student_logits, labels, reduction="none")).sum()


@full_precision
def permuted_target_loss(student_logits: Tensor, teacher_logits: Tensor, *, generator: torch.Generator) -> Tensor:
    """DKPP: KL from the teacher's output, its probabilities permuted among all classes but the most probable.

    Its similarities of wrong classes are lost; its confidence remains.

    Args:
        student_logits: `[N, K]`.
        teacher_logits: `[N, K]`; no gradient flows into them.
        generator: on their device; every image has a permutation of its own.

    Raises:
        ValueError: shapes that differ.
    """
    check_same_shape(student_logits, teacher_logits)
    target = F.log_softmax(teacher_logits.detach(), dim=1)
    others = other_classes(target, target.argmax(dim=1))
    order = torch.rand(others.shape, generator=generator, device=others.device).argsort(dim=1)
    permuted = target.scatter(1, others, target.gather(1, others.gather(1, order)))
    return kl(permuted, student_logits, "batchmean")
