"""Label smoothing, and the hand-made teacher that is close to it (Yuan et al. 2020)."""

from __future__ import annotations

import math

import torch
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
from kdrun.losses.soft_targets import blend

SPREADS = ("uniform", "others")
TFKD_REG_VARIANTS = ("paper", "released")


@full_precision
def label_smoothing_loss(logits: Tensor, labels: Tensor, *, epsilon: float, spread: str = "uniform") -> Tensor:
    """Cross-entropy with a smoothed label (LSR: Szegedy et al. 2016; Yuan et al. 2020, eq. 1-2).

    Args:
        logits: `[N, K]`.
        labels: `[N]`, int64.
        epsilon: probability mass that is taken from the label, in [0, 1].
        spread: `"uniform"`, epsilon/K on every class, `q' = (1 - epsilon) q + epsilon / K` (the equation);
            `"others"`, epsilon/(K-1) on the wrong classes (the released Tf-KD code), which equals `"uniform"`
            with epsilon K/(K-1).

    Raises:
        ValueError: a shape, type, class index or option outside these ranges.
    """
    check_range("epsilon", epsilon, 0, 1)
    check_choice("spread", spread, SPREADS)
    check_logits(logits, labels)
    num_classes = logits.shape[1]
    log_probs = F.log_softmax(logits, dim=1)
    correct = log_probs.gather(1, labels[:, None]).squeeze(1)
    others = (log_probs.sum(dim=1) - correct) / (num_classes - 1)
    smoothed = log_probs.mean(dim=1) if spread == "uniform" else others
    return -((1 - epsilon) * correct + epsilon * smoothed).mean()


def virtual_teacher_probs(logits: Tensor, labels: Tensor, correct_prob: float) -> Tensor:
    """p^d of Tf-KD_reg: `correct_prob` on the label, `(1 - correct_prob) / (K - 1)` on each other class.

    Args:
        logits: `[N, K]`: shape, type and device of the result.
        labels: `[N]`, int64.
        correct_prob: a in the paper (Yuan et al. 2020, eq. 8), in (0, 1].
    """
    probs = torch.full_like(logits, (1 - correct_prob) / (logits.shape[1] - 1))
    return probs.scatter_(1, labels.unsqueeze(1), correct_prob)


def virtual_teacher_target(num_classes: int, *, temperature: float, correct_prob: float = 0.99) -> float:
    """The probability that `softmax(p^d / T)` gives the label, see `virtual_teacher_loss`.

    With K = 100 and `correct_prob` 0.99 it is 0.0122 at T = 5 and 0.0102 at T = 40: nearly uniform.
    """
    others = (1 - correct_prob) / (num_classes - 1)
    return 1 / (1 + (num_classes - 1) * math.exp(min((others - correct_prob) / temperature, 700.0)))  # no overflow


@full_precision
def virtual_teacher_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    correct_prob: float = 0.99,
    variant: str = "released",
    kl_reduction: str | None = None,
) -> Tensor:
    """KL from Tf-KD_reg's hand-made teacher p^d to the student (Yuan et al. 2020, eq. 8-9).

    p^d has `correct_prob` on the label and `(1 - correct_prob) / (K - 1)` on each other class; it is softened as
    `softmax(p^d / T)`, a softmax over probabilities, as in the paper's figure 3 and in the released code.

    Args:
        logits: `[N, K]`.
        labels: `[N]`, int64.
        temperature: T > 0.
        correct_prob: a in the paper, in (0, 1]; above 1/K the label is the likeliest class.
        variant: `"released"`, the student at T=1 and the KL divided by K: label smoothing up to a constant, in which
            T hardly acts. `"paper"`, T on both sides and the KL per image. Neither has a factor T^2.
        kl_reduction: `"batchmean"`, the KL per image, or `"mean"`, divided by K; None is that of the variant.

    Raises:
        ValueError: a shape, type, class index or option outside these ranges.
    """
    check_range("temperature", temperature, 0, open_low=True)
    check_range("correct_prob", correct_prob, 0, 1, open_low=True)
    check_choice("variant", variant, TFKD_REG_VARIANTS)
    if kl_reduction is None:
        kl_reduction = "batchmean" if variant == "paper" else "mean"
    check_choice("kl_reduction", kl_reduction, KL_REDUCTIONS)
    check_logits(logits, labels)
    target = F.log_softmax(virtual_teacher_probs(logits, labels, correct_prob) / temperature, dim=1)
    return kl(target, logits / temperature if variant == "paper" else logits, kl_reduction)


def tfkd_reg_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
    correct_prob: float = 0.99,
    multiplier: float | None = None,
    variant: str = "released",
) -> Tensor:
    """`(1 - alpha) H(q, p) + alpha * multiplier * KL(p_T^d || p)`: Tf-KD_reg (Yuan et al. 2020, eq. 9).

    Args:
        logits: `[N, K]`.
        labels: `[N]`, int64.
        temperature: T > 0; the paper asks for 20 and more.
        alpha: weight of the virtual teacher, in [0, 1].
        correct_prob: probability that the virtual teacher gives the label, in (0, 1].
        multiplier: further weight of the virtual teacher's term, at least 0 (the released code has it, eq. 9 not).
            None weighs the KL per image by alpha alone: eq. 9, and as released a multiplier of K.
        variant: `"released"` or `"paper"`, see `virtual_teacher_loss`. As released it equals scaled label
            smoothing up to a constant.

    Raises:
        ValueError: a shape, type, class index or option outside these ranges.
    """
    hard = cross_entropy(logits, labels)
    soft = virtual_teacher_loss(
        logits,
        labels,
        temperature=temperature,
        correct_prob=correct_prob,
        variant=variant,
        kl_reduction="batchmean" if multiplier is None else None,
    )
    return blend(hard, soft, alpha=alpha, multiplier=1.0 if multiplier is None else multiplier)
