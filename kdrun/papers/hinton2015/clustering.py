"""k-means, deterministic: a function of the points and a seed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

RESTARTS = 10


def kmeans(points: Tensor, num_clusters: int, *, seed: int) -> Tensor:
    """The clusters of points by k-means: the best of `RESTARTS` starts by k-means++ (Arthur and Vassilvitskii 2007).

    Args:
        points: `[n, d]`, finite.
        num_clusters: from 1 to n; at most as many clusters as distinct points are returned.
        seed: of the starts, at least 0.

    Returns:
        The cluster of each point, int64 `[n]`. Clusters are numbered as they first occur.

    Raises:
        ValueError: points that are not finite.
    """
    if not points.isfinite().all():
        raise ValueError("the points to cluster must be finite")
    points = points.detach().cpu().double()
    generator = torch.Generator().manual_seed(seed)
    found = [_lloyd(points, _spread_start(points, num_clusters, generator)) for _ in range(RESTARTS)]
    _, assignment = min(found, key=lambda result: result[0])
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(assignment.tolist()))}
    return torch.tensor([numbers[cluster] for cluster in assignment.tolist()])


def squared_distances(points: Tensor, centroids: Tensor) -> Tensor:
    """Squared Euclidean distances `[n, c]` of points `[n, d]` from centroids `[c, d]`; exactly 0 for equal ones."""
    return torch.cdist(points, centroids, compute_mode="donot_use_mm_for_euclid_dist").square()


def _spread_start(points: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next centroid is a point drawn in proportion to its squared distance from the nearest so far."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distances = squared_distances(points, points[chosen])[:, 0]
    while len(chosen) < num_clusters and distances.any():
        chosen.append(int(torch.multinomial(distances / distances.max(), 1, generator=generator)))
        distances = torch.minimum(distances, squared_distances(points, points[chosen[-1:]])[:, 0])
    return points[chosen]


def _lloyd(points: Tensor, centroids: Tensor) -> tuple[float, Tensor]:
    """Lloyd's algorithm until the sum of squared distances no longer falls: that sum, and the clusters."""
    lowest, best = math.inf, torch.zeros(len(points), dtype=torch.int64)
    while True:
        distances, assignment = squared_distances(points, centroids).min(dim=1)
        inertia = distances.sum().item()
        if inertia >= lowest:
            return lowest, best
        lowest, best = inertia, assignment
        members = F.one_hot(assignment, len(centroids)).double()
        sizes = members.sum(dim=0)
        centroids = (members.T @ points) / sizes.clamp_min(1)[:, None]
        for empty in (sizes == 0).nonzero()[:, 0].tolist():  # goes to the point that is served worst
            farthest = int(distances.argmax())
            centroids[empty] = points[farthest]
            distances[farthest] = 0
