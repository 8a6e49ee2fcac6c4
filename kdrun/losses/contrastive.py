"""Contrastive representation distillation (Tian et al. 2020): embeddings against memories of the other network's."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdrun.losses.base import full_precision

EPSILON = 1e-7
"""RepDistiller adds it to the denominators."""


@full_precision
def contrastive_scores(embeddings: Tensor, memory: Tensor, chosen: Tensor, *, temperature: float) -> Tensor:
    """`g . m / T` of each embedding with the rows of the memory that are chosen for it.

    Args:
        embeddings: `[N, d]`, of unit length.
        memory: `[M, d]`, of unit length; no gradient flows into it.
        chosen: int64 `[N, 1 + k]`, rows of the memory: that of the image itself first, then the negatives'.
        temperature: T > 0.

    Returns:
        `[N, 1 + k]`.
    """
    return (embeddings @ memory.detach().mT).gather(1, chosen) / temperature


def log_normalizer(scores: Tensor, num_examples: int) -> Tensor:
    """`log Z`, by which the exponentials of scores `[N, 1 + k]` sum to 1 over M examples, estimated from these N."""
    return scores.logsumexp(dim=(0, 1)) - math.log(scores.numel()) + math.log(num_examples)


@full_precision
def contrastive_loss(scores: Tensor, log_z: Tensor, *, num_examples: int) -> Tensor:
    """Noise-contrastive estimation, summed over positive and k negatives, the mean over N images (eq. 17 and 18).

    With `P = exp(score) / Z` and `c = k / M`: `-log P / (P + c)` of the positive, `-log c / (P + c)` of a negative.

    Args:
        scores: `[N, 1 + k]`, the positive's first; see `contrastive_scores`.
        log_z: `log Z`, a scalar.
        num_examples: M, the size of the memory.
    """
    noise = (scores.shape[1] - 1) / num_examples
    log_p = scores - log_z
    log_sum = torch.logaddexp(log_p, log_p.new_tensor(math.log(noise + EPSILON)))
    log_likelihood = (log_p[:, 0] - log_sum[:, 0]).sum() + (math.log(noise) - log_sum[:, 1:]).sum()
    return -log_likelihood / len(scores)
