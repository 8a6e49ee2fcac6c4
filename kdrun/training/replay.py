"""A teacher's logits on the views of earlier runs, given again instead of computed.

A view is a pure function of (seed, epoch, position in the training set), so what a frozen teacher said about it once
holds for every student that sees it. Nothing is approximated: the logits are kept in the type the teacher gave them
in, and are used for the very batches they were computed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from kdrun.methods.base import Batch, Needs, TeacherOutput
from kdrun.training.teacher import TeacherSource


class Recording(Protocol):
    """Where the epochs of one teacher on one sequence of views are kept."""

    def read(self, epoch: int) -> dict[str, Tensor] | None:
        """The tensors that were written for this epoch (from 0), on the CPU; None where there are none."""
        ...

    def write(self, epoch: int, tensors: dict[str, Tensor]) -> None:
        """Keeps an epoch whole."""
        ...


class ReplayTeacher:
    """Replays the epochs that are recorded; computes, and records, those that are not.

    Exact for logits, on the batches that were recorded: same views, same order, same batches.

    Args:
        live: computes what is missing.
        recording: of this teacher, on these views, computed in this way.
        needs: of the methods that ask.

    Raises:
        ValueError: a method needs more than logits.
    """

    def __init__(self, live: TeacherSource, recording: Recording, needs: Sequence[Needs]) -> None:
        for asked in needs:
            if asked != Needs(logits=True, own_architecture=asked.own_architecture):
                raise ValueError(f"replay holds a teacher's logits and nothing else: it is not exact for {asked}")
        self._live = live
        self._recording = recording
        self._recorded: dict[str, Tensor] | None = None
        self._logits: list[Tensor] = []
        self._index: list[Tensor] = []

    def __call__(self, batch: Batch) -> TeacherOutput:
        if batch.step == 0:
            self._begin_epoch(batch)
        if self._recorded is None:
            logits = self._live(batch).logits
        else:
            first = sum(map(len, self._index))
            logits = self._recorded["logits"][first : first + len(batch.y)]
        self._logits.append(logits)
        self._index.append(batch.index)
        return TeacherOutput(logits)

    def _begin_epoch(self, batch: Batch) -> None:
        self._epoch = batch.epoch
        self._logits, self._index = [], []
        found = self._recording.read(batch.epoch)
        self._recorded = found and {name: tensor.to(batch.x.device) for name, tensor in found.items()}

    def end_epoch(self) -> None:
        """Publishes an epoch that was computed; of one that was replayed, checks that it was of these views.

        Raises:
            RuntimeError: it was not: the epoch's students were taught about other images.
        """
        index = torch.cat(self._index)
        if self._recorded is None:
            self._recording.write(self._epoch, {"logits": torch.cat(self._logits), "index": index})
        elif not torch.equal(index, self._recorded["index"]):
            raise RuntimeError(
                f"replay: the logits recorded for epoch {self._epoch + 1} are not those of its views, in order"
            )
