"""Relation-based losses: distances, angles and similarities of the images of a batch, in feature spaces of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.base import full_precision
from kdrun.losses.features import unit


@full_precision
def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber distance of the pairwise distances, each network's divided by its mean (RKD-D: Park et al. 2019).

    The mean is over the distances that are not zero; Huber (beta 1) is averaged over all N^2 pairs.

    Args:
        student: features of N images, `[N, ...]`.
        teacher: `[N, ...]`, of any other shape; no gradient flows into them.
    """
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher.detach()))


@full_precision
def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber distance of the cosines of the angles in all triplets (RKD-A: Park et al. 2019).

    Huber (beta 1) is averaged over all N^3 triplets, those with an image twice included (their cosine is 0 or 1 in
    both networks). Memory: N^2 D + N^3 numbers.

    Args:
        student: features of N images, `[N, ...]`.
        teacher: `[N, ...]`, of any other shape; no gradient flows into them.
    """
    return F.smooth_l1_loss(_cosines(student), _cosines(teacher.detach()))


@full_precision
def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`||G_s - G_t||_F^2 / N^2`, `G = F F^T` with rows of unit length (SP: Tung, Mori 2019).

    Args:
        student: features of N images, `[N, ...]`, flattened to F.
        teacher: `[N, ...]`, of any other shape; no gradient flows into them.
    """
    return (_similarities(student) - _similarities(teacher.detach())).square().mean()


def _differences(features: Tensor) -> Tensor:
    """`f_j - f_i` at `[i, j]`: `[N, N, D]`."""
    flat = features.flatten(1)
    return flat[None] - flat[:, None]


def _relative_distances(features: Tensor) -> Tensor:
    distances: Tensor = torch.linalg.vector_norm(_differences(features), dim=2)
    positive = (distances > 0).sum().clamp_min(1)
    mean = distances.sum() / positive
    return distances / torch.where(mean > 0, mean, 1.0)


def _cosines(features: Tensor) -> Tensor:
    """The cosine of the angle at image i between j and k: `[N, N, N]`."""
    directions = unit(_differences(features))
    return directions @ directions.mT


def _similarities(features: Tensor) -> Tensor:
    flat = features.flatten(1)
    return unit(flat @ flat.mT)
