"""A source of teacher logits that replays those of earlier runs. Where they are stored: `kdrun.experiment.logit_cache`.

A view is a pure function of (seed, epoch, position in the training set), so a frozen teacher's logits for it hold for
every student that sees it. Nothing is approximated: the logits keep their type, and are used for the very batches they
were computed on.
"""

from __future__ import annotations

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


def replays(needs: Needs) -> bool:
    """Whether a replay is exact for these needs: for logits, and nothing else."""
    return needs.logits and not needs.features and not needs.weights


class ReplayTeacher:
    """Replays recorded epochs; computes and records the others.

    Exact for needs that `replays` accepts, on the batches that were recorded: same views, same order, same batches.

    Args:
        live: computes what is missing.
        recording: of this teacher, on these views, computed in this way.
        num_rows: the most that an epoch has, of all views together.
    """

    def __init__(self, live: TeacherSource, recording: Recording, num_rows: int) -> None:
        self._live = live
        self._recording = recording
        self._num_rows = num_rows
        self._logits: Tensor | None = None
        self._recorded_index: Tensor | None = None
        self._index = torch.empty(0, dtype=torch.int64)
        self._seen = 0

    def __call__(self, batch: Batch) -> TeacherOutput:
        if batch.step == 0:
            self._begin_epoch(batch)
        here = slice(self._seen, self._seen + len(batch.y))
        self._seen = here.stop
        self._index[here] = batch.index
        if self._recorded_index is not None:
            assert self._logits is not None
            return TeacherOutput(self._logits[here])
        output = self._live(batch)
        if self._logits is None:
            self._logits = output.logits.new_empty(self._num_rows, output.logits.shape[1])
        self._logits[here] = output.logits
        return output

    def _begin_epoch(self, batch: Batch) -> None:
        self._epoch, self._seen = batch.epoch, 0
        self._index = batch.index.new_empty(self._num_rows)
        found = self._recording.read(batch.epoch)
        self._logits = None if found is None else found["logits"].to(batch.x.device)
        self._recorded_index = None if found is None else found["index"].to(batch.x.device)

    def end_epoch(self) -> None:
        """Publishes an epoch that was computed; of one that was replayed, checks that it was of these views.

        Raises:
            RuntimeError: it was not: the epoch's students were taught about other images.
        """
        index = self._index[: self._seen]
        if self._recorded_index is None:
            assert self._logits is not None, "an epoch has a batch"
            self._recording.write(self._epoch, {"logits": self._logits[: self._seen], "index": index})
        elif not torch.equal(index, self._recorded_index):
            raise RuntimeError(
                f"replay: the logits recorded for epoch {self._epoch + 1} are not those of its views, in order; "
                "remove replay/ under the output root, and the teacher computes them again"
            )
