"""How alike what several networks make of the same images is, and a plane on which alike networks lie near each other.

Representations are matrices `[n, d]`, a row an image; the width d may differ from network to network. Everything here
is a pure function and computes in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BATCH_SIZE = 64  # images, in Abnar et al. 2020, who average over 21 such batches
ROUNDING = 1e-12  # distances up to it are rounding


def representational_similarity(a: Tensor, b: Tensor) -> Tensor:
    """How alike two representations relate the images to each other, in (-1, 1] (Abnar et al. 2020).

    With rows of length 1, `S = R R^T` holds the cosines between the images; the similarity is the mean over the images
    of the cosine between their rows of `S_a` and of `S_b`. Rotating a representation or scaling an image's row does not
    change it; nothing is centred.

    A row of zeros (all units dead) has no direction: it is wholly like another such row (1) and not at all like any
    other (0), so that everything is like itself.

    The value depends on n: each image's cosine with itself is 1 in both, which weighs more among fewer images.

    Args:
        a: `[n, d_a]`, finite, n at least 2.
        b: `[n, d_b]`, of the same images.

    Returns:
        A 0-d float64 tensor.

    Raises:
        ValueError: shapes or values outside what is said above.
    """
    _check([a, b])
    return similarity_matrix([a, b], batch_size=len(a))[0, 1]


def similarity_matrix(representations: Sequence[Tensor], *, batch_size: int = BATCH_SIZE) -> Tensor:
    """The similarity between each two of M networks: `representational_similarity`, the mean over consecutive batches.

    A last smaller batch is dropped, since similarities of fewer images are higher.

    Args:
        representations: of each network, `[n, d_m]`, finite, of the same images in the same order.
        batch_size: images whose relations are compared, from 2 to n.

    Returns:
        `[M, M]`, float64, symmetric, 1 on the diagonal (up to rounding), on the device of the representations.

    Raises:
        ValueError: shapes or values outside what is said above.
    """
    num_images = _check(representations)
    if not 2 <= batch_size <= num_images:
        raise ValueError(f"batch_size={batch_size!r}: must be from 2 to the number of images, {num_images}")
    directions = [_normalised(values.detach().double()) for values in representations]
    num_batches = num_images // batch_size
    total = directions[0].new_zeros(len(directions), len(directions))
    for batch in range(num_batches):
        rows = slice(batch * batch_size, (batch + 1) * batch_size)
        cosines = (_normalised(values[rows] @ values[rows].T) for values in directions)
        total += _products(_separate_zeros(matrix) for matrix in cosines) / batch_size
    return _symmetric(total / num_batches)


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """Linear centred kernel alignment, in [0, 1] (Kornblith et al. 2019, section 3).

    `|A^T B|_F^2 / (|A^T A|_F |B^T B|_F)` of the representations with their mean over the images subtracted: 1 where
    they differ by a rotation, a scale and a shift.

    A representation that is the same for all images (all units dead) has CKA 1 with another such one, 0 with any other.

    Args:
        a: `[n, d_a]`, finite, n at least 2.
        b: `[n, d_b]`, of the same images.

    Returns:
        A 0-d float64 tensor.

    Raises:
        ValueError: shapes or values outside what is said above.
    """
    return cka_matrix([a, b])[0, 1]


def cka_matrix(representations: Sequence[Tensor]) -> Tensor:
    """`linear_cka` between each two of M networks, over all images at once.

    Computed from the kernels `A A^T`: `|A^T B|_F^2` is the sum of the products of their entries. That takes
    n^2 (d_1 + ... + d_M + M^2) multiplications; choose some images where there are tens of thousands.

    Args:
        representations: of each network, `[n, d_m]`, finite, n at least 2, of the same images in the same order.

    Returns:
        `[M, M]`, float64, symmetric, 1 on the diagonal (up to rounding), on the device of the representations.

    Raises:
        ValueError: shapes or values outside what is said above.
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
class Embedding:
    """Points whose distances are near those that were asked for.

    Attributes:
        points: `[M, dimensions]`, float64, their mean at 0, the axis of the largest variance first.
        kept: the share of the variance that these axes keep, in [0, 1]: the sum of their eigenvalues, of that of all
            positive ones. 1 where all points coincide. Negative eigenvalues, of distances that no space has, are not
            counted.
    """

    points: Tensor
    kept: float


def classical_mds(distances: Tensor, dimensions: int = 2) -> Embedding:
    """Classical multidimensional scaling (Torgerson 1952): exact where the distances are those of points.

    The eigenvectors of `B = -1/2 J D^2 J`, `J = I - 1/M`, times the roots of their eigenvalues. Abnar et al. 2020 draw
    scikit-learn's metric MDS (SMACOF, from random starts) instead; this has one answer. On each axis the first point
    that is not at 0 is on the positive side. Axes of equal variance are arbitrary within the space they span.

    Args:
        distances: D, `[M, M]`, finite, symmetric, at least 0, with 0 on the diagonal.
        dimensions: of the points, from 1 to M.

    Raises:
        ValueError: distances or dimensions outside what is said above.
    """
    _check_distances(distances)
    num_points = len(distances)
    if not 1 <= dimensions <= num_points:
        raise ValueError(f"dimensions={dimensions!r}: must be from 1 to the number of points, {num_points}")
    squares = _symmetric(distances.detach().double()).square()
    from_row_mean = squares - squares.mean(dim=1, keepdim=True)
    products = _symmetric(-(from_row_mean - from_row_mean.mean(dim=0)) / 2)
    eigenvalues, vectors = torch.linalg.eigh(products)  # ascending
    variances = eigenvalues.flip(0).clamp_min(0)
    points = vectors.flip(1)[:, :dimensions] * variances[:dimensions].sqrt()
    total = variances.sum().item()
    return Embedding(points * _signs(points), variances[:dimensions].sum().item() / total if total else 1.0)


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
    """Raises ValueError unless they are of the same images; returns how many these are."""
    if not representations:
        raise ValueError("a similarity needs at least one representation")
    shapes = [list(values.shape) for values in representations]
    if any(len(shape) != 2 or shape[0] != shapes[0][0] for shape in shapes):
        raise ValueError(f"representations of shapes {shapes}: must be [n, d] each, with the same n")
    if shapes[0][0] < 2:
        raise ValueError(f"representations of {shapes[0][0]} image(s): how images relate needs at least 2")
    if not all(values.isfinite().all() for values in representations):
        raise ValueError("representations must be finite")
    return int(shapes[0][0])


def _check_distances(distances: Tensor) -> None:
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or not len(distances):
        raise ValueError(f"distances of shape {list(distances.shape)}: must be [M, M], M at least 1")
    # `not all` and not `any`, so that NaN fails too.
    if not (distances.isfinite() & (distances >= 0)).all() or distances.diagonal().any():
        raise ValueError("distances must be finite, at least 0, and 0 on the diagonal")
    if not torch.allclose(distances, distances.T, rtol=1e-5, atol=0):
        raise ValueError("distances must be symmetric")
