"""The order of a split's examples in an epoch, and its batches."""

from __future__ import annotations

import torch
from torch import Tensor

from kdrun.seeds import mix

from .splits import sorted_by_class


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> Tensor:
    """The order of the training set in an epoch: a permutation of `range(num_samples)`, int64 on the CPU."""
    return _permutation(num_samples, mix("order", seed, epoch))


def grouped_order(labels: Tensor, per_class: int, *, seed: int, epoch: int) -> Tensor:
    """The order of an epoch in which images of one class follow each other in groups of `per_class`.

    Which images are in a group, and the order of the groups, are drawn anew for each epoch. What a class has beyond
    whole groups comes last.

    Args:
        labels: int64 `[M]`, on the CPU.
        per_class: images in a group, at least 2.
        seed: of the order.
        epoch: from 0.

    Returns:
        A permutation of `range(M)`, int64 `[M]`.
    """
    shuffled = _permutation(len(labels), mix("order", seed, epoch, per_class))
    by_class, ranks = sorted_by_class(labels, shuffled)
    counts = labels.bincount()
    whole = ranks < (counts - counts % per_class)[labels[by_class]]
    groups = by_class[whole].view(-1, per_class)
    groups = groups[_permutation(len(groups), mix("groups", seed, epoch, per_class))]
    rest = by_class[~whole]
    return torch.cat([groups.flatten(), rest[_permutation(len(rest), mix("rest", seed, epoch, per_class))]])


def _permutation(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def batches(order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Cuts an order into batches of `batch_size`, the last one possibly smaller.

    A last batch of a single image is dropped: BatchNorm cannot train on one value per channel.
    """
    cut = torch.split(order, batch_size)
    leftover = len(cut) > 1 and batch_size > 1 and len(cut[-1]) == 1
    return cut[:-1] if leftover else cut
