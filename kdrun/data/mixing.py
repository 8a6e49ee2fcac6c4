"""Random erasing, mixup and cutmix of normalised batches, on their device.

What happens to a view is a pure function of (seed, epoch, position of the image in the training set, number of the
view), and its partner is its neighbour in the batch: of 0 and 1, 2 and 3, and so on, each is the other's. Rectangles
and weights come from tables and integer arithmetic, so they are equal on every device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdrun.mixed import Mixed
from kdrun.seeds import mix
from kdrun.spec.augmentation import Augmentation, RandomErasing

from .randomness import uniform32

NUM_QUANTILES = 4096
"""Values that a continuous parameter can have: the middles of equally probable parts of its distribution."""

_MIDDLES = [(row + 0.5) / NUM_QUANTILES for row in range(NUM_QUANTILES)]

NUM_ATTEMPTS = 10
"""Rectangles that RandomErasing tries before it erases nothing."""


def join_views(
    views: Sequence[Tensor], y: Tensor, index: Tensor, augmentation: Augmentation, *, seed: int, epoch: int
) -> tuple[Tensor, Tensor, Tensor, Mixed | None]:
    """A batch, ready for a network: each view erased and mixed, and all joined.

    Args:
        views: of the N images of the batch, normalised, `[N, C, H, W]`, overwritten; or of N sequences.
        y: labels `[N]` (of language models `[N * L]`).
        index: positions `[N]` of the images in the training set.
        augmentation: the law.
        seed: of the data order and augmentation.
        epoch: counted from 0.

    Returns:
        V views of the images `[V * N, C, H, W]`, view by view; their labels and positions, repeated; and the second
        labels where images are mixed.
    """
    made, partners = [], []
    for number, view in enumerate(views):
        where = {"seed": seed, "epoch": epoch, "number": number}
        if augmentation.random_erasing.p:
            view = erased(view, *draw_erasing(augmentation.random_erasing, index, *view.shape[-2:], **where))
        if augmentation.mixes:
            weights, own = draw_mixing(augmentation, index, *view.shape[-2:], **where)
            view = mixed_pairs(view, weights)
            partners.append(Mixed(_swapped(y), own))
        made.append(view)
    second = Mixed(*map(torch.cat, zip(*partners, strict=True))) if partners else None
    if len(made) == 1:
        return made[0], y, index, second
    return torch.cat(made), y.repeat(len(made)), index.repeat(len(made)), second


def draw_erasing(
    erasing: RandomErasing, index: Tensor, height: int, width: int, *, seed: int, epoch: int, number: int = 0
) -> tuple[Tensor, Tensor]:
    """The rectangle that is erased of each image: rows and columns `[first, end)`, int64 `[2, N]` each; or none."""
    applies, top, left, *shapes = _draws("random_erasing", index, 3 + 2 * NUM_ATTEMPTS, seed, epoch, number)
    side, stretch, shrink = _erasing_tables(erasing, height * width, index.device)
    sides = side[_quantiles(torch.stack(shapes[:NUM_ATTEMPTS]))]
    shape = _quantiles(torch.stack(shapes[NUM_ATTEMPTS:]))
    heights, widths = ((sides * table[shape]).round().long() for table in (stretch, shrink))
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(0, keepdim=True)
    erases = fits.any(0) & (applies < round(erasing.p * (1 << 32)))
    h, w = (lengths.gather(0, first)[0] * erases for lengths in (heights, widths))
    top, left = (top * (height - h + 1)) >> 32, (left * (width - w + 1)) >> 32
    return torch.stack([top, top + h]), torch.stack([left, left + w])


def erased(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`x [N, C, H, W]` with 0 in a rectangle of each image, in place; see `draw_erasing`."""
    return x.masked_fill_(_rectangles(rows, columns, *x.shape[-2:]), 0.0)


def draw_mixing(
    augmentation: Augmentation, index: Tensor, height: int, width: int, *, seed: int, epoch: int, number: int = 0
) -> tuple[Tensor, Tensor]:
    """The weights of images in their mixtures.

    Returns:
        Those of each pixel, float32, `[N, 1, H, W]` or `[N, 1, 1, 1]`; and their means, `[N]`, those of the labels.
    """
    choice, quantile, x, y = _draws("mixing", index, 4, seed, epoch, number)
    quantile = _quantiles(quantile)
    mixup = _beta_table(augmentation.mixup_alpha, index.device)[quantile] if augmentation.mixup_alpha else None
    if not augmentation.cutmix_alpha:
        assert mixup is not None, "no mixing"
        return mixup.view(-1, 1, 1, 1), mixup
    half = _cutmix_table(augmentation.cutmix_alpha, height, width, index.device)[quantile]
    x, y = (x * width) >> 32, (y * height) >> 32
    rows = torch.stack([y - half[:, 0], y + half[:, 0]]).clamp(0, height)
    columns = torch.stack([x - half[:, 1], x + half[:, 1]]).clamp(0, width)
    pixels = (~_rectangles(rows, columns, height, width)).float()
    area, whole = (rows[1] - rows[0]) * (columns[1] - columns[0]), height * width
    weight = (whole - area) / torch.full_like(area, whole)  # CUDA would multiply by the inverse of a Python number
    if mixup is None:
        return pixels, weight
    is_mixup = choice < 1 << 31
    of_pixels = torch.where(is_mixup.view(-1, 1, 1, 1), mixup.view(-1, 1, 1, 1), pixels)
    return of_pixels, torch.where(is_mixup, mixup, weight)


def mixed_pairs(x: Tensor, weights: Tensor) -> Tensor:
    """Means of images `[N, C, H, W]` and their partners; `weights` are those of the images themselves."""
    partners = _swapped(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # whose rows are contiguous
    return partners.mul_(1 - weights).add_(x * weights)


def _swapped(values: Tensor) -> Tensor:
    """Rows 1, 0, 3, 2, and so on; the last one of an odd number stays."""
    rows = torch.arange(len(values), device=values.device)
    return values.index_select(0, rows.bitwise_xor(1).clamp_(max=len(values) - 1))


def _rectangles(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Whether pixels are in an image's rectangle of rows and columns `[first, end)`, bool `[N, 1, H, W]`."""
    inside = []
    for size, (first, end) in ((height, rows.unsqueeze(2)), (width, columns.unsqueeze(2))):
        position = torch.arange(size, device=rows.device)
        inside.append((position >= first).logical_and_(position < end))
    pixels: Tensor = inside[0].unsqueeze(2) & inside[1].unsqueeze(1)
    return pixels.unsqueeze(1)


def _draws(purpose: str, index: Tensor, count: int, seed: int, epoch: int, number: int) -> tuple[Tensor, ...]:
    """`count` random numbers below 2**32 for each image, int64 `[N]` each."""
    counters = index * 32 + torch.arange(count, device=index.device).unsqueeze(1)
    return uniform32(counters, mix(purpose, seed, epoch, number)).unbind()


def _quantiles(draws: Tensor) -> Tensor:
    """Rows of a table for numbers below 2**32."""
    return (draws * NUM_QUANTILES) >> 32


@functools.lru_cache(maxsize=16)
def _erasing_tables(erasing: RandomErasing, area: int, device: torch.device) -> Tensor:
    """Side of a square of the area in pixels, and the factors of its height and width, float32 `[3, NUM_QUANTILES]`."""
    least, most = erasing.scale
    low, high = map(math.log, erasing.ratio)

    def row(share: float) -> tuple[float, ...]:
        stretch = math.exp((low + (high - low) * share) / 2)
        return math.sqrt(area * (least + (most - least) * share)), stretch, 1 / stretch

    return torch.tensor([row(middle) for middle in _MIDDLES], dtype=torch.float32, device=device).T.contiguous()


@functools.lru_cache(maxsize=16)
def _beta_table(alpha: float, device: torch.device) -> Tensor:
    """Quantiles of Beta(alpha, alpha), float32 `[NUM_QUANTILES]`."""
    return torch.tensor(_beta_quantiles(alpha), dtype=torch.float32, device=device)


@functools.lru_cache(maxsize=16)
def _cutmix_table(alpha: float, height: int, width: int, device: torch.device) -> Tensor:
    """Half the height and width of CutMix's box in pixels, int64 `[NUM_QUANTILES, 2]`."""
    halves = [0.5 * math.sqrt(1.0 - weight) for weight in _beta_quantiles(alpha)]
    return torch.tensor([(int(half * height), int(half * width)) for half in halves], device=device)


def _beta_quantiles(alpha: float) -> list[float]:
    from scipy import stats

    return [float(quantile) for quantile in stats.beta(alpha, alpha).ppf(_MIDDLES)]
