"""Feature-based losses: what the layers between input and logits are compared by, one pair of layers a call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.base import check_choice, full_precision

HINT_REDUCTIONS = ("mean", "half_sum")
FSP_REDUCTIONS = ("sum", "mean")
POOLINGS = ("max", "average")
AT_VARIANTS = ("released", "paper")


def unit(vectors: Tensor) -> Tensor:
    """Vectors along the last dimension divided by their L2 norm; a zero vector stays zero, with a finite gradient."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(norms > 1e-12, norms, 1.0)


def same_size(first: Tensor, second: Tensor, pooling: str = "average") -> tuple[Tensor, Tensor]:
    """Two feature maps `[N, C, H, W]`, the larger pooled (adaptively) to the size of the smaller, side by side.

    Raises:
        ValueError: an unknown `pooling`.
    """
    check_choice("pooling", pooling, POOLINGS)
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    one, other = (
        features if features.shape[2:] == size else _pooled(features, size, pooling) for features in (first, second)
    )
    return one, other


def _pooled(features: Tensor, size: tuple[int, int], pooling: str) -> Tensor:
    """Adaptive pooling: where the sizes divide by windows of one size, whose gradient is deterministic on CUDA too."""
    height, width = features.shape[2:]
    if size == (height, width):
        return features
    if size != (1, 1) and height % size[0] == 0 and width % size[1] == 0:
        window = (height // size[0], width // size[1])
        return F.max_pool2d(features, window) if pooling == "max" else F.avg_pool2d(features, window)
    return (F.adaptive_max_pool2d if pooling == "max" else F.adaptive_avg_pool2d)(features, size)


def attention_map(features: Tensor) -> Tensor:
    """Mean over the channels of the squared activations `[N, C, H, W]`, flattened and of unit length: `[N, H W]`."""
    return unit(features.square().mean(1).flatten(1))


@full_precision
def embedding(projected: Tensor) -> Tensor:
    """Projected features `[N, d]` divided by their length."""
    return unit(projected)


@full_precision
def attention_transfer_loss(student: Tensor, teacher: Tensor, *, variant: str = "released") -> Tensor:
    """Distance of the attention maps Q of HW positions, the mean over the images (Zagoruyko, Komodakis 2017).

    Where the sizes differ, the activations of the larger map are average-pooled first, as in RepDistiller.

    Args:
        student: `[N, C, H, W]`.
        teacher: `[N, C', H', W']`; no gradient flows into it.
        variant: `"released"`, `||Q_s - Q_t||^2 / HW`, is the authors' code and RepDistiller's. `"paper"`,
            `||Q_s - Q_t|| / (2 HW)`, has the norm of its equation 2, not squared.

    Raises:
        ValueError: an unknown `variant`.
    """
    check_choice("variant", variant, AT_VARIANTS)
    ours, theirs = same_size(student, teacher.detach())
    difference = attention_map(ours) - attention_map(theirs)
    if variant == "paper":
        norms: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return norms.mean() / (2 * difference.shape[1])
    return difference.square().mean()


@full_precision
def hint_loss(student: Tensor, teacher: Tensor, *, reduction: str = "mean") -> Tensor:
    """Distance of the student's regressed features from the teacher's (FitNets: Romero et al. 2015).

    Args:
        student: r(v), the regressor's output for the guided layer, `[N, ...]`.
        teacher: u, of the hint layer, of the same shape; no gradient flows into it.
        reduction: `"mean"` of the squares over all elements (RepDistiller); `"half_sum"`, `1/2 ||u - r(v)||^2` per
            image, the paper's.

    Raises:
        ValueError: shapes that differ, an unknown `reduction`.
    """
    check_choice("reduction", reduction, HINT_REDUCTIONS)
    _check_same_shape(student, teacher)
    squares = (student - teacher.detach()).square()
    return squares.mean() if reduction == "mean" else squares.sum() / (2 * len(squares))


@full_precision
def fsp_matrix(first: Tensor, last: Tensor, *, pooling: str = "max") -> Tensor:
    """`G_ij = sum over positions of F1_i F2_j / (h w)`: the flow from one layer to another (Yim et al. 2017, eq. 1).

    Args:
        first: F1, `[N, m, H, W]`.
        last: F2, `[N, n, H', W']`.
        pooling: of the larger map where the sizes differ: `"max"` (the paper) or `"average"` (RepDistiller).

    Returns:
        `[N, m, n]`.

    Raises:
        ValueError: an unknown `pooling`.
    """
    one, other = same_size(first, last, pooling)
    return one.flatten(2) @ other.flatten(2).mT / (one.shape[2] * one.shape[3])


@full_precision
def fsp_loss(student: Tensor, teacher: Tensor, *, reduction: str = "sum") -> Tensor:
    """Squared Frobenius distance of two FSP matrices, the mean over the images (Yim et al. 2017, eq. 2).

    Args:
        student: `[N, m, n]`.
        teacher: `[N, m, n]`; no gradient flows into it.
        reduction: `"sum"` of the squares (the paper); `"mean"` divides it by m n (RepDistiller).

    Raises:
        ValueError: shapes that differ, an unknown `reduction`.
    """
    check_choice("reduction", reduction, FSP_REDUCTIONS)
    _check_same_shape(student, teacher)
    squares = (student - teacher.detach()).square()
    return squares.mean() if reduction == "mean" else squares.sum() / len(squares)


def _check_same_shape(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's and the teacher's must have the same shape, "
            f"got {list(student.shape)} and {list(teacher.shape)}"
        )
