"""Splits whose images are read, decoded and augmented by worker processes when a batch needs them.

A batch is the same whatever the number of workers: an image is a function of its position, its view one of (seed,
epoch, position, number of the view), and batches arrive in the order in which they were requested.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kdrun import stopping
from kdrun.spec.augmentation import Augmentation

from .augmentation import augment
from .encoded import EncodedSet
from .errors import DataError
from .normalisation import Normalisation
from .pixels import pixel_limit
from .splits import ImageSet

PIECE_BYTES = 2**24
"""Pixels that a worker decodes at once, unless one image has more: a worker holds two pieces that are ready."""


@dataclass(frozen=True)
class Views:
    """The views that are made of some images; without, an image is as it is evaluated.

    Attributes:
        augmentation: the law of the views.
        seed: of the views.
        epoch: from 0.
        count: views of each image.
    """

    augmentation: Augmentation
    seed: int
    epoch: int
    count: int


Request = tuple[int, list[int], Views | None]
"""The number of a set, positions in it, and the views of the images there."""


class _Decoder:
    """What a worker computes: a mapping from a request to its images."""

    def __init__(self, sets: Sequence[EncodedSet | ImageSet]) -> None:
        self._sets = sets

    def __getitem__(self, request: Request) -> list[Tensor] | str:
        """For each view (one where there are none) uint8 `[N, H, W, C]`; or which image cannot be read, and why."""
        number, positions, views = request
        images, law = self._sets[number], views.augmentation if views else Augmentation()
        made: list[list[Tensor]] = [[] for _ in range(views.count if views else 1)]
        whole = law.crop_scale is not None
        with pixel_limit():
            for position in positions:
                try:
                    pixels = images.pixels(position, whole=whole)
                except Exception as error:  # a damaged file makes Pillow's plug-ins raise nearly anything
                    return f"{images.name(position)}: {getattr(error, 'strerror', None) or error or type(error)}"
                for view, batch in enumerate(made):
                    batch.append(self._one(pixels, position, views, view) if views and law.per_image else pixels)
        stacked = [torch.stack(batch) for batch in made]
        if views and not law.per_image:
            where = {"seed": views.seed, "epoch": views.epoch, "at": torch.arange(len(positions))}
            index = torch.tensor(positions)
            stacked = [augment(batch, index, law, number=view, **where) for view, batch in enumerate(stacked)]
        return stacked

    def _one(self, pixels: Tensor, position: int, views: Views, number: int) -> Tensor:
        from .image_views import view

        return view(
            pixels, views.augmentation, position, seed=views.seed, epoch=views.epoch, number=number, size=self._size
        )
