"""The losses of knowledge distillation: pure tensor functions in closed form, without state.

Conventions. Logits are `[N, K]` (N images, K classes), labels are integer class indices `[N]`; every loss is a
scalar, the mean over the N images. `alpha` weighs the distillation term and `1 - alpha` the hard label.
Everything is computed in log space, outside autocast: float64 stays float64, anything narrower is computed in
float32. Gradients reach the student only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

KL_REDUCTIONS = ("batchmean", "mean")
SPREADS = ("uniform", "others")
TFKD_REG_VARIANTS = ("paper", "released")


def _full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Computes a loss in at least float32 whatever autocast would do: its first argument is `[N, K]` logits."""

    @functools.wraps(loss)
    def wrapped(logits: Tensor, *args: Tensor, **options: object) -> Tensor:
        tensors = [_widened(tensor) for tensor in (logits, *args)]
        with torch.autocast(logits.device.type, enabled=False):
            return loss(*tensors, **options)

    return wrapped


LARGEST_LOGIT = 1e30
"""Logits beyond are taken as this large, so that losses stay finite at every temperature from 0.1 to 100."""


def _widened(tensor: Tensor) -> Tensor:
    """Logits in at least float32 and within bounds; infinity becomes NaN, never a large logit."""
    if not tensor.is_floating_point():
        return tensor
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    return wide.clamp(-LARGEST_LOGIT, LARGEST_LOGIT) + (wide - wide)


def check_range(name: str, value: float, low: float, high: float = float("inf"), *, open_low: bool = False) -> None:
    """Raises `ValueError` unless `low <= value <= high` (`low < value` when `open_low`); NaN and infinity fail."""
    inside = (value > low if open_low else value >= low) and value <= high and value != float("inf")
    if not inside:
        allowed = f"{'more than' if open_low else 'at least'} {low:g}"
        if high != float("inf"):
            allowed = f"{'more than' if open_low else 'from'} {low:g} {'and at most' if open_low else 'to'} {high:g}"
        raise ValueError(f"{name}={value!r}: must be a finite number, {allowed}")


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises `ValueError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(allowed)}")


def _check_logits(logits: Tensor, labels: Tensor | None = None) -> None:
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating point of shape [N, K], got {logits.dtype} {list(logits.shape)}")
    if labels is None:
        return
    if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64 of shape [{len(logits)}] for logits {list(logits.shape)}, "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    # Looking at the values would make a GPU wait at every step; there the device's own assertion speaks.
    if labels.device.type == "cpu" and len(labels):
        low, high, num_classes = int(labels.min()), int(labels.max()), logits.shape[1]
        if low < 0 or high >= num_classes:
            allowed = f"from 0 to {num_classes - 1} for K={num_classes} classes"
            raise ValueError(f"labels must be {allowed}, got {low} to {high}")


def blend(hard: Tensor, soft: Tensor, *, alpha: float, multiplier: float = 1.0) -> Tensor:
    """`(1 - alpha) * hard + alpha * multiplier * soft`: how every distillation loss here weighs its two terms.

    Raises:
        ValueError: `alpha` outside [0, 1], or `multiplier` negative.
    """
    check_range("alpha", alpha, 0, 1)
    check_range("multiplier", multiplier, 0)
    return (1 - alpha) * hard + alpha * multiplier * soft


@_full_precision
def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy H(q, p) of logits `[N, K]` with the hard labels `[N]`, in nats."""
    _check_logits(logits, labels)
    return F.cross_entropy(logits, labels)


@_full_precision
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
    _check_logits(student_logits)
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student and teacher logits must have the same shape [N, K], "
            f"got {list(student_logits.shape)} and {list(teacher_logits.shape)}"
        )
    soft_targets = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * _kl(soft_targets, student_logits / temperature, kl_reduction)


def _kl(log_target: Tensor, logits: Tensor, kl_reduction: str) -> Tensor:
    """KL(target || softmax(logits)) from the target's log probabilities `[N, K]`."""
    kl = F.kl_div(F.log_softmax(logits, dim=1), log_target, reduction="batchmean", log_target=True)
    return kl / logits.shape[1] if kl_reduction == "mean" else kl


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
        ValueError: a shape, type, class index or option outside what is said above.
    """
    hard = cross_entropy(student_logits, labels)
    soft = soft_target_loss(student_logits, teacher_logits, temperature=temperature, kl_reduction=kl_reduction)
    return blend(hard, soft, alpha=alpha, multiplier=multiplier)


@_full_precision
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
        ValueError: a shape, type, class index or option outside what is said above.
    """
    check_range("epsilon", epsilon, 0, 1)
    check_choice("spread", spread, SPREADS)
    _check_logits(logits, labels)
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


@_full_precision
def virtual_teacher_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    correct_prob: float = 0.99,
    variant: str = "paper",
) -> Tensor:
    """KL from Tf-KD_reg's hand-made teacher p^d to the student (Yuan et al. 2020, eq. 8-9).

    p^d has `correct_prob` on the label and `(1 - correct_prob) / (K - 1)` on each other class; it is softened as
    `softmax(p^d / T)`, a softmax over probabilities, as in the paper's figure 3 and in the released code.

    Args:
        logits: `[N, K]`.
        labels: `[N]`, int64.
        temperature: T > 0.
        correct_prob: a in the paper, in (0, 1]; above 1/K the label is the likeliest class.
        variant: `"paper"`, T on both sides and the KL per image. `"released"`, the student at T=1 and the KL
            divided by K. Neither has a factor T^2.

    Raises:
        ValueError: a shape, type, class index or option outside what is said above.
    """
    check_range("temperature", temperature, 0, open_low=True)
    check_range("correct_prob", correct_prob, 0, 1, open_low=True)
    check_choice("variant", variant, TFKD_REG_VARIANTS)
    _check_logits(logits, labels)
    target = F.log_softmax(virtual_teacher_probs(logits, labels, correct_prob) / temperature, dim=1)
    if variant == "paper":
        return _kl(target, logits / temperature, "batchmean")
    return _kl(target, logits, "mean")


def tfkd_reg_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
    correct_prob: float = 0.99,
    multiplier: float = 1.0,
    variant: str = "paper",
) -> Tensor:
    """`(1 - alpha) H(q, p) + alpha * multiplier * KL(p_T^d || p)`: Tf-KD_reg (Yuan et al. 2020, eq. 9).

    Args:
        logits: `[N, K]`.
        labels: `[N]`, int64.
        temperature: T > 0; the paper asks for 20 and more.
        alpha: weight of the virtual teacher, in [0, 1].
        correct_prob: probability that the virtual teacher gives the label, in (0, 1].
        multiplier: further weight of the virtual teacher's term, at least 0 (the released code has it, eq. 9 not).
        variant: `"paper"` or `"released"`, see `virtual_teacher_loss`. As released it equals scaled label
            smoothing up to a constant.

    Raises:
        ValueError: a shape, type, class index or option outside what is said above.
    """
    hard = cross_entropy(logits, labels)
    soft = virtual_teacher_loss(logits, labels, temperature=temperature, correct_prob=correct_prob, variant=variant)
    return blend(hard, soft, alpha=alpha, multiplier=multiplier)
