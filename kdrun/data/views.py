"""The training data as a run sees it: the augmented batches of each epoch, a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kdrun.distributed import Part
from kdrun.mixed import Mixed
from kdrun.spec.augmentation import Augmentation

from .division import Division
from .resident import Resident, epoch_order, grouped_order

BATCHES_AT_ONCE = 32
"""Batches whose views are made by one set of operations, at most: on a GPU each operation costs a launch."""

POSITIONS_AT_ONCE = 2**22
"""Pixels (or tokens) of the views made at once, unless one batch has more. `augment` takes about 30 bytes for each, so
at most 130 MB."""

POSITIONS_AT_ONCE_CPU = 2**18
"""The same on a CPU, where the intermediate results should stay in the cache."""


class TrainingViews:
    """Batches of random views of a resident training set; its length is the number of steps of an epoch.

    The views of up to `BATCHES_AT_ONCE` batches are made at once; they do not depend on it.

    Args:
        examples: the training set.
        augmentation: the law of the views.
        batch_size: examples per step, of all ranks; the last step of an epoch may have fewer, but never a single one.
        seed: of order and views.
        views: of each example in a batch, at least 1: N examples then are `views * N` rows, view by view.
        per_class: examples of one class that follow each other, on one rank, see `grouped_order`; 1: without groups.
    """

    def __init__(
        self,
        examples: Resident,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        views: int = 1,
        per_class: int = 1,
    ) -> None:
        self._examples = examples
        self._augmentation = augmentation
        self._seed = seed
        self.num_views = views
        self._per_class = per_class
        self._classes = examples.labels.cpu() if per_class > 1 else None
        self._division = Division(len(examples), batch_size, unit=per_class, views=views)
        limit = POSITIONS_AT_ONCE_CPU if examples.labels.device.type == "cpu" else POSITIONS_AT_ONCE
        self._at_once = max(1, min(BATCHES_AT_ONCE, limit // (batch_size * examples.positions)))

    def __len__(self) -> int:
        return len(self._division)

    def part(self, step: int) -> Part | None:
        """The part of the batch of a step that this rank computes; None where it computes all of it."""
        return self._division.part(step)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Mixed | None]]:
        """Yields views `[N, ...]`, labels `[N]` (language models: `[N * L]`), positions `[N]` in the set, and None.

        Epochs count from 0. Of several views N is that of all of them; labels and positions are repeated. Of a batch
        that is divided over the ranks they are those of this rank's part.
        """
        examples = self._examples
        own = self._division.own(self._order(epoch).to(examples.labels.device))
        for first in range(0, len(own), self._at_once):
            indices = own[first : first + self._at_once]
            sizes = [len(index) for index in indices]
            positions = torch.cat(indices)
            gathered = [
                examples.gather(positions, self._augmentation, seed=self._seed, epoch=epoch, number=number).split(sizes)
                for number in range(self.num_views)
            ]
            labels = examples.labels_of(positions)
            rows = len(labels) // len(positions)  # of an example
            for *parts, y, index in zip(*gathered, labels.split([rows * size for size in sizes]), indices, strict=True):
                views = [examples.inputs(part) for part in parts]
                if self.num_views == 1:
                    yield views[0], y, index, None
                else:
                    yield torch.cat(views), y.repeat(self.num_views), index.repeat(self.num_views), None

    def _order(self, epoch: int) -> Tensor:
        if self._classes is None:
            return epoch_order(len(self._examples), seed=self._seed, epoch=epoch)
        return grouped_order(self._classes, self._per_class, seed=self._seed, epoch=epoch)
