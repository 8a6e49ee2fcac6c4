"""Specialists (Hinton et al. 2015, section 5): the classes of each, and their joint prediction with a generalist.

A generalist has all K classes. Specialist m has the set S_m, and one more output, the last, for all the other classes:
its dustbin. Pure functions of predictions, in float64; probabilities are at T = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.papers.hinton2015.clustering import kmeans, squared_distances

Sets = Sequence[tuple[int, ...]]


def class_sets(
    probabilities: Tensor, num_sets: int, *, size: int | None = None, seed: int
) -> tuple[tuple[int, ...], ...]:
    """The classes of each specialist: those a generalist often predicts together (Hinton et al. 2015, section 5.3).

    k-means on the columns of the covariance matrix, over the images, of the generalist's predictions. No labels.

    Args:
        probabilities: the generalist's, `[N, K]`, N at least 2.
        num_sets: of clusters, from 1 to K. Fewer sets are returned where clusters have the same set, and without `size`
            where a cluster is a single class, which is left to the generalist.
        size: classes in each set, from 2 to K - 1: those whose columns are nearest to the centroid of the cluster, so
            sets overlap (the paper has 61 sets of 300 of 15 000 classes). None: the clusters themselves, disjoint.
        seed: of k-means.

    Returns:
        Sorted sets of 2 to K - 1 classes, in sorted order.

    Raises:
        ValueError: no set of 2 to K - 1 classes comes out.
    """
    num_classes = probabilities.shape[1]
    columns = torch.cov(probabilities.detach().cpu().double().T)  # symmetric: row k is column k
    cluster = kmeans(columns, num_sets, seed=seed)
    members = F.one_hot(cluster).T.double()
    if size is None:
        chosen = [row.nonzero()[:, 0] for row in members]
    else:
        centroids = members @ columns / members.sum(dim=1, keepdim=True)
        chosen = list(squared_distances(centroids, columns).argsort(dim=1, stable=True)[:, :size])
    sets = {tuple(sorted(classes.tolist())) for classes in chosen}
    kept = tuple(sorted(classes for classes in sets if 2 <= len(classes) < num_classes))
    if not kept:
        raise ValueError(
            f"num_sets={num_sets!r}: no cluster of 2 to {num_classes - 1} of the {num_classes} classes came out; "
            "choose another number of sets, or a size"
        )
    return kept


def active(generalist_probabilities: Tensor, sets: Sets, num_top: int = 1) -> Tensor:
    """Whose sets hold one of the classes the generalist finds likeliest: bool `[N, M]`, a column for each set.

    Args:
        generalist_probabilities: `[N, K]`; logits or log-probabilities do as well, being in the same order.
        sets: of classes, M of them.
        num_top: how many of the likeliest classes count, from 1 to K; 1 in the paper.
    """
    num_classes = generalist_probabilities.shape[1]
    likeliest = generalist_probabilities.topk(num_top, dim=1).indices
    return _membership(sets, num_classes, likeliest.device)[:, likeliest].any(dim=2).T


def _membership(sets: Sets, num_classes: int, device: torch.device) -> Tensor:
    """Which classes are in which set: bool `[M, K]`."""
    inside = torch.zeros(len(sets), num_classes, dtype=torch.bool)
    for row, classes in zip(inside, sets, strict=True):
        row[list(classes)] = True
    return inside.to(device)


@dataclass(frozen=True)
class Combination:
    """The joint answer of a generalist and its specialists.

    Attributes:
        log_q: `[N, K]`, float64 if the generalist's is, else float32.
        excess: `[N]`, float64: an upper bound, in nats, of how far each image's objective is above its minimum.
    """

    log_q: Tensor
    excess: Tensor


def combined(
    generalist_log_probabilities: Tensor,
    specialist_log_probabilities: Sequence[Tensor],
    sets: Sets,
    active: Tensor,
    *,
    tolerance: float = 1e-6,
    steps: int = 1000,
) -> Combination:
    """The q over all classes that minimises `KL(p_g, q) + sum over active m of KL(p_m, q)` (section 5).

    `KL(p, q) = sum p log(p / q)`; what q gives a dustbin is the sum of q over the classes outside S_m.

    With q = softmax(z), A active specialists and the expectation
    `e(q)_k = (p_g,k + sum_m (p_m,k if k in S_m, else p_m,dustbin q_k / q(outside S_m))) / (1 + A)`
    the gradient in z is `(1 + A)(q - e(q))`. The paper descends it, per image; here each step is
    `z <- z + log(e(q) / q)`, that is q <- e(q), for all images at once. It has the same fixed point, starts at the
    generalist's answer as well, never raises the objective (it is an EM step) and needs no learning rate. Descent
    cannot do with one: it moves a class of probability q_k at a rate in proportion to q_k.

    The objective is convex in q, with derivatives `-(1 + A) e(q)_k / q_k`, so `(1 + A)(max_k e(q)_k / q_k - 1)` bounds
    what is left to gain. An image stops when that is at most `tolerance`: mostly in tens of steps, but it may take
    thousands where specialists whose sets overlap are sure of contrary things.

    Args:
        generalist_log_probabilities: `[N, K]`, finite.
        specialist_log_probabilities: for each set `[N, |S_m| + 1]`: its classes in the set's order, the dustbin last,
            after `kdrun.experiment.initial_weights.oversampling_correction`.
        sets: M sets of classes. The dustbin of a set of all the classes must have probability 0.
        active: bool `[N, M]`. An image without an active specialist keeps the generalist's answer exactly.
        tolerance: in nats, more than 0.
        steps: the most for an image, at least 1; `Combination.excess` is what they reached.
    """
    generalist = generalist_log_probabilities.detach()
    inside = _membership(sets, generalist.shape[1], generalist.device)
    log_q = generalist.to(torch.float64 if generalist.dtype == torch.float64 else torch.float32, copy=True)
    excess = torch.zeros(len(generalist), dtype=torch.float64, device=generalist.device)
    rows = active.any(dim=1).nonzero()[:, 0]
    start = generalist[rows].double().log_softmax(dim=1)
    log_base, log_numerator, dustbins = start, start, []  # of e(q): what does not depend on q, all of it at the start
    for m, classes in enumerate(sets):
        asked = active[rows, m, None]
        answer = specialist_log_probabilities[m].detach()[rows].double().log_softmax(dim=1)
        answer = answer.where(asked, -math.inf)
        known = torch.full_like(start, -math.inf)
        known[:, list(classes)] = answer[:, :-1]
        shared = start.where(~inside[m], -math.inf).logsumexp(dim=1, keepdim=True)
        guessed = (answer[:, -1:] + start - shared).where(~inside[m], -math.inf)
        log_base = torch.logaddexp(log_base, known)
        log_numerator = torch.logaddexp(log_numerator, known.where(inside[m], guessed))
        dustbins.append(answer[:, -1].exp())
    if len(rows):
        num_models = 1 + active[rows].sum(dim=1, keepdim=True).double()
        z, excess[rows] = _minimised(
            log_numerator - num_models.log(),
            (log_base, torch.stack(dustbins, dim=1), num_models),
            (~inside).double(),
            tolerance=tolerance,
            steps=steps,
        )
        log_q[rows] = z.log_softmax(dim=1).to(log_q.dtype)
    return Combination(log_q, excess)


def _minimised(
    z: Tensor, terms: tuple[Tensor, Tensor, Tensor], outside: Tensor, *, tolerance: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Steps of `combined` from q = e^z, which must be some e(q): then e(q) / q never overflows. Returns z and excess.

    `terms` of each image: log of the sum of the probabilities that need no sharing `[N, K]`, those of the dustbins
    `[N, M]` (0 of the inactive) and the number of models `[N, 1]`.
    """
    final, excess = z.clone(), torch.zeros(len(z), dtype=z.dtype, device=z.device)
    left = torch.arange(len(z), device=z.device)
    for step in range(1, steps + 1):
        log_base, dustbins, num_models = terms
        # A q(outside) that underflows to 0 has a dustbin of hardly more: e(q) made it so.
        mass = (z.exp() @ outside.T).clamp_min(torch.finfo(z.dtype).tiny)
        ratio = ((log_base - z).exp() + (dustbins / mass) @ outside) / num_models
        bound = (num_models[:, 0] * (ratio.amax(dim=1) - 1)).clamp_min(0)
        done = (bound <= tolerance) | (step == steps)
        if done.any():
            final[left[done]], excess[left[done]] = z[done], bound[done]
            going = ~done
            left, z, ratio = left[going], z[going], ratio[going]
            terms = (log_base[going], dustbins[going], num_models[going])
            if not len(left):
                break
        z = z + ratio.log()
    return final, excess


def conditional_accuracy(log_q: Tensor, labels: Tensor, sets: Sets) -> float:
    """Top-1 in percent on the images of classes that some set holds, predicting only such classes (Table 3).

    Args:
        log_q: `[N, K]`, log-probabilities or logits.
        labels: int64 `[N]`.
        sets: of classes.

    Raises:
        ValueError: no image of such a class.
    """
    special = _membership(sets, log_q.shape[1], log_q.device).any(dim=0)
    counts = special[labels]
    if not counts.any():
        raise ValueError("conditional accuracy: no image is of a class that a specialist knows")
    prediction = log_q.where(special, -math.inf)[counts].argmax(dim=1)
    return 100 * (prediction == labels[counts]).double().mean().item()


@dataclass(frozen=True)
class Coverage:
    """A row of Table 4: the test images whose class is known to a number of specialists, and the correct ones."""

    num_specialists: int
    num_images: int
    num_correct_generalist: int
    num_correct_combined: int


def accuracy_by_coverage(
    generalist_log_probabilities: Tensor, log_q: Tensor, labels: Tensor, sets: Sets
) -> tuple[Coverage, ...]:
    """What the specialists change, by how many of them know the class of the image (Table 4).

    Args:
        generalist_log_probabilities: `[N, K]`; logits do as well.
        log_q: of `combined`, `[N, K]`.
        labels: int64 `[N]`.
        sets: of classes.

    Returns:
        A row for each number of specialists that some image has, ascending; the images add up to N.
    """
    cover = _membership(sets, log_q.shape[1], log_q.device).sum(dim=0)[labels]
    before = generalist_log_probabilities.argmax(dim=1) == labels
    after = log_q.argmax(dim=1) == labels
    rows = []
    for number in cover.unique().tolist():
        images = cover == number
        rows.append(Coverage(number, *(int(counted.sum()) for counted in (images, images & before, images & after))))
    return tuple(rows)
