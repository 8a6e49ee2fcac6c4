"""Similarity of networks by their representations of the same images, and a plane on which similar networks are near.

Representations are matrices `[n, d]`, a row an image; the width d may differ from network to network. Pure functions,
in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BATCH_SIZE = 64  # images, in Abnar et al. 2020, who average over 21 such batches
ROUNDING = 1e-12  # distances up to it are rounding


def similarity_matrix(representations: Sequence[Tensor], *, batch_size: int = BATCH_SIZE) -> Tensor:
    """How alike each two of M networks relate the images to each other, in (-1, 1] (Abnar et al. 2020).

    With rows of length 1, `S = R R^T` holds the cosines between the images; the similarity of a and b is the mean over
    the images of the cosine between their rows of `S_a` and of `S_b`, and over consecutive batches. Rotating a
    representation or scaling an image's row does not change it; nothing is centred. A row of zeros (all units dead) has
    no direction: it is wholly like another such row (1) and not at all like any other (0), so that everything is like
    itself.

    Each image's cosine with itself is 1 in both, so similarities of fewer images are higher; a last smaller batch is
    dropped.

    Args:
        representations: of each network, `[n, d_m]`, n at least 2, of the same images in the same order.
        batch_size: images whose relations are compared, from 2 to n.

    Returns:
        `[M, M]`, float64, symmetric, 1 on the diagonal (up to rounding), on the device of the representations.

    Raises:
        ValueError: fewer than two images, or values that are not finite.
    """
    num_images = _check(representations)
    directions = [_normalised(values.detach().double()) for values in representations]
    num_batches = num_images // batch_size
    total = directions[0].new_zeros(len(directions), len(directions))
    for batch in range(num_batches):
        rows = slice(batch * batch_size, (batch + 1) * batch_size)
        cosines = (_normalised(values[rows] @ values[rows].T) for values in directions)
        total += _products(_separate_zeros(matrix) for matrix in cosines) / batch_size
    return _symmetric(total / num_batches)


def cka_matrix(representations: Sequence[Tensor]) -> Tensor:
    """Linear centred kernel alignment between each two of M networks, in [0, 1] (Kornblith et al. 2019, section 3).

    `|A^T B|_F^2 / (|A^T A|_F |B^T B|_F)` of the representations with their mean over the images subtracted: 1 where
    they differ by a rotation, a scale and a shift. A representation that is the same for all images (all units dead)
    has CKA 1 with another such one, 0 with any other.

    Computed from the kernels `A A^T`: `|A^T B|_F^2` is the sum of the products of their entries. That takes
    n^2 (d_1 + ... + d_M + M^2) multiplications.

    Args:
        representations: of each network, `[n, d_m]`, n at least 2, of the same images in the same order.

    Returns:
        `[M, M]`, float64, symmetric, 1 on the diagonal (up to rounding), on the device of the representations.

    Raises:
        ValueError: fewer than two images, or values that are not finite.
    """
    num_images = _check(representations)
    centred = [_centred(values.detach().double()) for values in representations]
    total = centred[0].new_zeros(len(centred), len(centred))
    for start in range(0, num_images, BATCH_SIZE):  # some rows of the kernels at a time: M of them whole are too much
        total += _products(values[start : start + BATCH_SIZE] @ values.T for values in centred)
    norms = total.diagonal().sqrt()
    constant = (norms == 0).double()
    norms = norms + constant  # of a constant representation every product is 0 already
    return _symmetric(total / norms / norms[:, None] + constant * constant[:, None])


def distance_matrix(similarities: Tensor) -> Tensor:
    """Distances between networks as they are drawn: `1 - similarity`, divided by the largest (Abnar et al. 2020).

    Args:
        similarities: `[M, M]`, symmetric, at most 1, with 1 on the diagonal.

    Returns:
        `[M, M]`, float64, in [0, 1], 0 on the diagonal. All 0 where no two differ by more than rounding (1e-12).
    """
    distances = 1 - similarities.detach().double()
    distances = distances.where(distances > ROUNDING, 0).fill_diagonal_(0)
    largest = distances.max()
    return distances / largest if largest > 0 else distances


@dataclass(frozen=True)
class Plane:
    """Points whose distances are near given ones.

    Attributes:
        points: `[M, 2]`, float64, their mean at 0, the axis of the larger variance first.
        kept: the share of the variance that these axes keep, in [0, 1]: the sum of their eigenvalues, of that of all
            positive ones. 1 where all points coincide. Negative eigenvalues, of distances that no space has, are not
            counted.
    """

    points: Tensor
    kept: float


def classical_mds(distances: Tensor) -> Plane:
    """Classical multidimensional scaling (Torgerson 1952): exact where the distances are those of points on a plane.

    The eigenvectors of `B = -1/2 J D^2 J`, `J = I - 1/M`, times the roots of their eigenvalues. Abnar et al. 2020 draw
    scikit-learn's metric MDS (SMACOF, from random starts) instead; this has one answer. On each axis the first point
    that is not at 0 is on the positive side. Axes of equal variance are arbitrary within the plane they span.

    Args:
        distances: D, `[M, M]`, M at least 2, finite, symmetric, at least 0, with 0 on the diagonal.
    """
    squares = _symmetric(distances.detach().double()).square()
    from_row_mean = squares - squares.mean(dim=1, keepdim=True)
    products = _symmetric(-(from_row_mean - from_row_mean.mean(dim=0)) / 2)
    eigenvalues, vectors = torch.linalg.eigh(products)  # ascending
    variances = eigenvalues.flip(0).clamp_min(0)
    points = vectors.flip(1)[:, :2] * variances[:2].sqrt()
    total = variances.sum().item()
    return Plane(points * _signs(points), variances[:2].sum().item() / total if total else 1.0)


def _signs(points: Tensor) -> Tensor:
    """For each axis `[d]` the sign of the first point that is, beyond rounding, not at 0."""
    away = points.abs() > 1e-6 * points.abs().amax(dim=0)
    first = away.int().argmax(dim=0, keepdim=True)  # of equal ones the first
    return torch.where(points.gather(0, first)[0] < 0, -1.0, 1.0).to(points.dtype)


def _normalised(rows: Tensor) -> Tensor:
    """Rows of length 1; those of zeros stay."""
    return F.normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny)


def _separate_zeros(rows: Tensor) -> Tensor:
    """Rows with one more column, which is 1 in rows of zeros: these then are like one another and like no other."""
    return torch.cat([rows, (rows == 0).all(dim=1, keepdim=True).to(rows.dtype)], dim=1)


def _centred(rows: Tensor) -> Tensor:
    rows = rows - rows[0]  # makes equal rows zeros exactly, and takes a large common part away before it costs digits
    return rows - rows.mean(dim=0)


def _products(matrices: Iterator[Tensor]) -> Tensor:
    """Of M matrices of one shape the sum of the products of the entries of each two: `[M, M]`."""
    flat = torch.stack([matrix.flatten() for matrix in matrices])
    return flat @ flat.T


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2  # products of matrices are symmetric only up to rounding


def _check(representations: Sequence[Tensor]) -> int:
    """The number of images; raises ValueError where they cannot be related to each other."""
    num_images = len(representations[0])
    if num_images < 2:
        raise ValueError(f"representations of {num_images} image(s): how images relate needs at least 2")
    if not all(values.isfinite().all() for values in representations):
        raise ValueError("representations must be finite")
    return num_images
