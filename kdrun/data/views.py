"""The training data as a run sees it: the augmented batches of each epoch, a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kdrun.mixed import Mixed
from kdrun.spec.augmentation import Augmentation

from .mixing import join_views
from .order import batches, epoch_order, grouped_order
from .resident import Resident
from .streamed import StreamedImages


class TrainingViews:
    """Batches of random views of a training set; its length is the number of steps of an epoch.

    Args:
        examples: the training set.
        augmentation: the law of the views.
        batch_size: examples per step; the last step of an epoch may have fewer, but never a single one.
        seed: of order and views.
        views: of each example in a batch, at least 1: N examples then are `views * N` rows, view by view.
        per_class: examples of one class that follow each other, see `grouped_order`; 1 is the order without groups.
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
        self._batch_size = batch_size
        self._seed = seed
        self.num_views = views
        self._per_class = per_class
        self._classes = examples.labels.cpu() if per_class > 1 else None
        cut = batches(torch.arange(len(examples)), batch_size)
        self._steps, self._used = len(cut), sum(map(len, cut))

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Mixed | None]]:
        """Yields views `[N, ...]`, labels `[N]` (language models: `[N * L]`), positions `[N]`, second labels.

        Epochs count from 0. Of several views N is that of all of them; see `mixing.join_views`.
        """
        examples, parts = self._examples, self._order(epoch)[: self._used].split(self._batch_size)
        where = {"seed": self._seed, "epoch": epoch}
        for gathered, y, index in examples.views(parts, self._augmentation, **where, count=self.num_views):
            views = [examples.inputs(part) for part in gathered]
            yield join_views(views, y, index, self._augmentation, **where)

    def _order(self, epoch: int) -> Tensor:
        if self._classes is None:
            return epoch_order(len(self._examples), seed=self._seed, epoch=epoch)
        return grouped_order(self._classes, self._per_class, seed=self._seed, epoch=epoch)
