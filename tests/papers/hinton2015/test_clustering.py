"""k-means against all partitions of a few points."""

from itertools import product

import pytest
import torch

from kdrun.papers.hinton2015.clustering import _lloyd, kmeans


def inertia(points, assignment):
    clusters = [points[assignment == c] for c in assignment.unique()]
    return sum(((members - members.mean(0)) ** 2).sum().item() for members in clusters)


@pytest.mark.parametrize("seed", range(3))
def test_kmeans_finds_the_best_of_all_partitions(seed):
    points = torch.randn(7, 2, generator=torch.Generator().manual_seed(seed)).double()
    best = min(inertia(points, torch.tensor(partition)) for partition in product(range(3), repeat=7))
    assert inertia(points, kmeans(points, 3, seed=seed)) == pytest.approx(best, rel=1e-12)


def test_kmeans_is_a_function_of_points_and_seed():
    points = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    first = kmeans(points, 20, seed=3)
    assert torch.equal(first, kmeans(points, 20, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.dtype == torch.int64
    assert first.unique().tolist() == list(range(20))


def test_equal_points_share_a_cluster_and_fewer_clusters_come_out():
    points = torch.tensor([[1.0], [0.1], [1.0], [0.1], [7.0]])
    assert kmeans(points, 5, seed=0).tolist() == [0, 1, 0, 1, 2]
    with pytest.raises(ValueError, match="finite"):
        kmeans(points / 0, 2, seed=0)


def test_a_cluster_that_gets_no_point_takes_the_one_served_worst():
    points = torch.tensor([[100.0], [101], [110], [111]]).double()
    assert _lloyd(points, torch.tensor([[100.0], [1000]]).double())[0] == pytest.approx(1)
