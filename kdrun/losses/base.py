"""Shared parts of the losses: precision, checks of their arguments, cross-entropy and KL."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

KL_REDUCTIONS = ("batchmean", "mean")


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Computes a loss in at least float32 whatever autocast would do: its first argument is `[N, K]` logits.

    >>> @full_precision
    ... def brier_loss(student_logits, teacher_logits, *, temperature: float):
    ...     check_range("temperature", temperature, 0, open_low=True)
    ...     target = F.softmax(teacher_logits.detach() / temperature, dim=1)
    ...     return (F.softmax(student_logits / temperature, dim=1) - target).square().sum(dim=1).mean()
    >>> student, teacher = torch.tensor([[8.0, 0.0]]), torch.tensor([[0.0, 1e20]], dtype=torch.bfloat16)
    >>> loss = brier_loss(student.bfloat16(), teacher, temperature=4.0)
    >>> print(loss.dtype, round(loss.item(), 4))
    torch.float32 1.5516
    """

    @functools.wraps(loss)
    def wrapped(logits: Tensor, *args: Tensor, **options: object) -> Tensor:
        tensors = [widened(tensor) for tensor in (logits, *args)]
        with torch.autocast(logits.device.type, enabled=False):
            return loss(*tensors, **options)

    return wrapped


LARGEST_LOGIT = 1e30
"""Logits beyond are taken as this large, so that losses stay finite at every temperature that methods take."""

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 1e-3, 1e4
"""Below, a softmax of logits that differ by 0.1 has one class for all purposes, and z / T of `LARGEST_LOGIT` nears the
largest float32. Above, the gradient T (q - p) of logits that differ by 1 is a difference of probabilities that float32
has with an error of more than 0.1 %, and T^2 KL of `LARGEST_LOGIT` nears the largest float32."""

LARGEST_WEIGHT = 1e9
"""Of a term of a loss: with ordinary terms its gradient, and the square of that in Adam, are finite in float32."""


def widened(tensor: Tensor) -> Tensor:
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


def check_temperature(name: str, value: float) -> None:
    """Raises `ValueError` unless `value` is a temperature at which a loss and its gradient mean something in float32.

    The losses themselves are formulas for every T > 0, and take float64; methods are trained in float32.
    """
    check_range(name, value, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)


def check_weight(name: str, value: float, *, low: float = 0.0) -> None:
    """Raises `ValueError` unless `value` is from `low` to `LARGEST_WEIGHT`."""
    check_range(name, value, low, LARGEST_WEIGHT)


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises `ValueError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(allowed)}")


def check_logits(logits: Tensor, labels: Tensor | None = None) -> None:
    """Raises `ValueError` unless these are logits `[N, K]`, and labels `[N]` of K classes."""
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


@full_precision
def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy H(q, p) of logits `[N, K]` with the labels `[N]`, in nats.

    With `label_smoothing` s in [0, 1] the target q is `(1 - s)` times the label's one-hot vector plus `s / K`.
    """
    check_logits(logits, labels)
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


@full_precision
def mixed_cross_entropy(
    logits: Tensor, labels: Tensor, others: Tensor, weight: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy with two labels of each image (mixup: Zhang et al. 2018; cutmix: Yun et al. 2019).

    Args:
        logits: `[N, K]`.
        labels: `[N]`, int64.
        others: the second labels, `[N]`, int64.
        weight: of the first label, `[N]`, in [0, 1]; that of the second is `1 - weight`.
        label_smoothing: of the mixture, see `cross_entropy`.
    """
    check_logits(logits, labels)
    check_logits(logits, others)
    first, second = (
        F.cross_entropy(logits, each, reduction="none", label_smoothing=label_smoothing) for each in (labels, others)
    )
    return (weight * first + (1 - weight) * second).mean()


def kl(log_target: Tensor, logits: Tensor, kl_reduction: str) -> Tensor:
    """KL(target || softmax(logits)) from the target's log probabilities `[N, K]`."""
    divergence = F.kl_div(F.log_softmax(logits, dim=1), log_target, reduction="batchmean", log_target=True)
    return divergence / logits.shape[1] if kl_reduction == "mean" else divergence
