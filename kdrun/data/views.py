"""The training data as a run sees it: the augmented batches of each epoch, a pure function of (seed, epoch)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from kdrun.distributed import Part
from kdrun.mixed import Mixed
from kdrun.spec.augmentation import Augmentation

from .division import Division
from .mixing import join_views
from .order import epoch_order, grouped_order
from .resident import Resident
from .streamed import StreamedImages


class TrainingViews:
    """Batches of random views of a training set; its length is the number of steps of an epoch.

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
        examples: Resident | StreamedImages,
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
        unit = math.lcm(per_class, 2 if augmentation.mixes else 1)
        self._division = Division(len(examples), batch_size, unit=unit, views=views)

    def __len__(self) -> int:
        return len(self._division)

    def part(self, step: int) -> Part | None:
        """The part of the batch of a step that this rank computes; None where it computes all of it."""
        return self._division.part(step)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Mixed | None]]:
        """Yields views `[N, ...]`, labels `[N]` (language models: `[N * L]`), positions `[N]`, second labels.

        Epochs count from 0. Of several views N is that of all of them; see `mixing.join_views`. Of a batch that is
        divided over the ranks they are those of this rank's part.
        """
        examples, parts = self._examples, self._division.own(self._order(epoch))
        where = {"seed": self._seed, "epoch": epoch}
        for gathered, y, index in examples.views(parts, self._augmentation, **where, count=self.num_views):
            views = [examples.inputs(part) for part in gathered]
            yield join_views(views, y, index, self._augmentation, **where)

    def _order(self, epoch: int) -> Tensor:
        if self._classes is None:
            return epoch_order(len(self._examples), seed=self._seed, epoch=epoch)
        return grouped_order(self._classes, self._per_class, seed=self._seed, epoch=epoch)
