"""How an epoch's order of examples is divided: into batches, and each batch into the parts of the ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from kdrun.distributed import Part, part_of

from .order import batches


class Division:
    """The batches of an epoch; its length is their number.

    Args:
        total: examples of the training set.
        batch_size: of a batch of all ranks; the last one may have fewer, see `batches`.
        unit: examples of a batch that stay on one rank, see `kdrun.distributed.share`.
        views: of each example.
    """

    def __init__(self, total: int, batch_size: int, *, unit: int = 1, views: int = 1) -> None:
        self._sizes = [len(batch) for batch in batches(torch.arange(total), batch_size)]
        self._unit = unit
        self._views = views

    def __len__(self) -> int:
        return len(self._sizes)

    def part(self, step: int) -> Part | None:
        """The part of the batch of a step (from 0) that this rank computes; None where it computes all of it."""
        return part_of(self._sizes[step], unit=self._unit, views=self._views)

    def own(self, order: Tensor) -> list[Tensor]:
        """The examples of each batch that this rank computes.

        Args:
            order: of all examples, `[M]`.
        """
        whole = order[: sum(self._sizes)].split(self._sizes)
        parts = [self.part(step) for step in range(len(self))]
        return [
            batch if part is None else batch[part.start : part.stop] for batch, part in zip(whole, parts, strict=True)
        ]
