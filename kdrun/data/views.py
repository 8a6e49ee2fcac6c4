"""The training data as a run sees it: the augmented batches of each epoch, a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .augmentation import Augmentation
from .resident import Resident, batches, epoch_order


class TrainingViews:
    """Batches of random views of a resident training set; its length is the number of steps of an epoch.

    Args:
        examples: the training set.
        augmentation: the law of the views.
        batch_size: examples per step; the last step of an epoch may have fewer, but never a single one.
        seed: of order and views.
    """

    def __init__(self, examples: Resident, augmentation: Augmentation, *, batch_size: int, seed: int) -> None:
        self._examples = examples
        self._augmentation = augmentation
        self._batch_size = batch_size
        self._seed = seed
        self._steps = len(batches(torch.arange(len(examples)), batch_size))

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields views `[N, ...]`, labels `[N]` (of language models `[N * L]`) and positions in the training set `[N]`.

        Epochs count from 0.
        """
        order = epoch_order(len(self._examples), seed=self._seed, epoch=epoch).to(self._examples.labels.device)
        for index in batches(order, self._batch_size):
            views = self._examples.view(index, self._augmentation, seed=self._seed, epoch=epoch)
            yield views, self._examples.labels_of(index), index
