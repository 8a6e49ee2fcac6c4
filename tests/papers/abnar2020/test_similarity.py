"""Similarities against loops and against the definitions; points against the distances they were made from."""

import math

import pytest
import torch
from torch.testing import assert_close

from kdrun.papers.abnar2020.similarity import cka_matrix, classical_mds, distance_matrix, similarity_matrix

N = 12
ONE = torch.tensor(1.0).double()


def representational_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return similarity_matrix([a, b], batch_size=len(a))[0, 1]


def linear_cka(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return cka_matrix([a, b])[0, 1]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(normal(size, size, seed=seed)).Q


def cosine(u: list[float], v: list[float]) -> float:
    return sum(x * y for x, y in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)


def similarity_by_loops(a: torch.Tensor, b: torch.Tensor) -> float:
    def relations(rows: list[list[float]]) -> list[list[float]]:
        return [[cosine(row, other) for other in rows] for row in rows]

    pairs = zip(relations(a.tolist()), relations(b.tolist()), strict=True)
    return sum(cosine(ours, theirs) for ours, theirs in pairs) / len(a)


def cka_by_hsic(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`, `HSIC(K, L) = tr(K H L H) / (n - 1)^2` (Kornblith et al., eq. 3)."""
    n = len(a)
    h = torch.eye(n, dtype=torch.float64) - 1 / n

    def hsic(k: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return torch.trace(k @ h @ kernel @ h) / (n - 1) ** 2

    k, kernel = a @ a.T, b @ b.T
    return hsic(k, kernel) / (hsic(k, k) * hsic(kernel, kernel)).sqrt()


@pytest.mark.parametrize("similarity", [representational_similarity, linear_cka])
def test_similarities_do_not_see_rotation_or_scale(similarity):
    a, b = normal(N, 4), normal(N, 6, seed=1)
    expected = similarity(a, b)
    assert 0 < expected < 0.9
    assert_close(similarity(b, a), expected)
    assert_close(similarity(3 * a @ rotation(4), b @ rotation(6)), expected)
    assert_close(similarity(a, 0.1 * a @ rotation(4)), ONE)
    assert_close(similarity(a, torch.cat([a, torch.zeros(N, 2)], dim=1)), ONE)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert_close(similarity(a[order], b[order]), expected)
    assert_close(similarity(a.float(), b.float()), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dead", [1, N])
def test_rows_of_zeros_are_like_one_another_and_like_nothing_else(dead):
    a, b = normal(N, 4), normal(N, 3, seed=1)
    other = b.clone()
    a[:dead] = b[:dead] = 0
    assert_close(representational_similarity(a, a), ONE)
    alive = similarity_by_loops(a[dead:], b[dead:]) if dead < N else 0
    assert representational_similarity(a, b).item() == pytest.approx((dead + alive * (N - dead)) / N)
    matrix = similarity_matrix([a, b, other], batch_size=N)
    assert matrix.isfinite().all()
    assert matrix[0, 2] < (N - dead) / N + 1e-12


def test_representations_that_never_change_have_cka_1_with_one_another_and_0_with_others():
    constant = torch.full((N, 3), 0.1)
    expected = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).double()
    assert_close(cka_matrix([constant, torch.zeros(N, 5), normal(N, 4)]), expected)


def test_the_matrices_hold_each_pairs_similarity_and_means_over_whole_batches():
    networks = [normal(N + 3, width, seed=width) for width in (3, 4, 9)]
    matrix = similarity_matrix(networks, batch_size=N // 2)
    cka = cka_matrix(networks)
    for i, a in enumerate(networks):
        for j, b in enumerate(networks):
            batches = [similarity_by_loops(a[part], b[part]) for part in (slice(0, N // 2), slice(N // 2, N))]
            assert matrix[i, j].item() == pytest.approx(sum(batches) / 2, rel=1e-12)
            assert_close(cka[i, j], cka_by_hsic(a, b))
    for found in (matrix, cka):
        assert torch.equal(found, found.T)
        assert_close(found.diagonal(), torch.ones(3).double())


def test_one_image_and_values_that_are_not_finite_are_refused():
    for similarity in (representational_similarity, linear_cka):
        for faulty in (normal(1, 2), normal(4, 2) / 0):
            with pytest.raises(ValueError, match="representations"):
                similarity(faulty, faulty)


def test_distances_are_divided_by_the_largest():
    similarities = torch.tensor([[1, 0.8, 0.6], [0.8, 1 - 1e-15, 0.9], [0.6, 0.9, 1 + 1e-15]]).double()
    expected = torch.tensor([[0, 0.5, 1], [0.5, 0, 0.25], [1, 0.25, 0]]).double()
    assert_close(distance_matrix(similarities), expected)
    assert not distance_matrix(similarities).diagonal().any()
    a = normal(N, 4)
    alike = similarity_matrix([a, a @ rotation(4), -2 * a], batch_size=4)
    assert torch.equal(distance_matrix(alike), torch.zeros(3, 3).double()), "rounding is not blown up to 1"


def test_mds_finds_a_planar_configuration_up_to_rotation():
    points = normal(9, 2) * torch.tensor([3.0, 1.0]) + 5
    found = classical_mds(torch.cdist(points, points))
    assert (found.points.shape, found.points.dtype) == ((9, 2), torch.float64)
    assert_close(torch.cdist(found.points, found.points), torch.cdist(points, points), rtol=1e-7, atol=1e-7)
    assert found.kept == pytest.approx(1)
    assert_close(found.points.mean(dim=0), torch.zeros(2).double())
    centred = points - points.mean(dim=0)
    u, _, v = torch.linalg.svd(found.points.T @ centred)  # the nearest rotation or reflection
    assert_close(found.points @ u @ v, centred, rtol=1e-7, atol=1e-7)
    spread = found.points.T @ found.points
    assert spread[0, 0] > spread[1, 1]
    assert spread[0, 1].abs() < 1e-8
    assert (found.points[0] > 0).all()


def test_the_share_that_a_plane_keeps():
    corners = torch.eye(4).double()  # a tetrahedron: three equal variances
    found = classical_mds(torch.cdist(corners, corners))
    assert found.kept == pytest.approx(2 / 3)
    # No space has these: the eigenvalues are 2, 2, 0 and -1/4, the negative one of the star's centre.
    star = torch.tensor([[0.0, 1, 1, 1], [1, 0, 2, 2], [1, 2, 0, 2], [1, 2, 2, 0]])
    assert classical_mds(star).kept == pytest.approx(1)
