"""The ranks of one run that is computed on several devices: torch.distributed's default group.

Without a group this process is the only rank, 0 of 1, and everything here is a matter of this process alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed


def rank() -> int:
    """The number of this process in the group, from 0; rank 0 alone writes files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def num_ranks() -> int:
    """The number of processes in the group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def share(total: int, *, unit: int = 1, rank: int | None = None, ranks: int | None = None) -> slice:
    """A rank's consecutive part of `total` things, as even as whole units allow; the parts of all ranks are all of it.

    Args:
        total: number of things, from 0.
        unit: things that stay together, at least 1; what `total` has beyond whole units is the last rank's.
        rank: None is this process's.
        ranks: their number; None is the group's.
    """
    here = (distributed.get_rank() if distributed.is_initialized() else 0) if rank is None else rank
    ranks = num_ranks() if ranks is None else ranks
    units = total // unit
    start, stop = (unit * (units * number // ranks) for number in (here, here + 1))
    return slice(start, total if here == ranks - 1 else stop)


def broadcast(value: Any) -> Any:
    """Rank 0's value, which can be pickled, on every rank; a collective call."""
    if num_ranks() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: Any) -> list[Any]:
    """The values of all ranks, which can be pickled, in order, on every rank; a collective call."""
    if num_ranks() == 1:
        return [value]
    values: list[Any] = [None] * num_ranks()
    distributed.all_gather_object(values, value)
    return values


def summed(tensor: Tensor) -> Tensor:
    """The sum of the ranks' tensors of one shape; a collective call, without a gradient."""
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


LEAST_IN_A_PART = 2
"""Examples: BatchNorm of a rank alone cannot train on one value per channel."""


@dataclass(frozen=True)
class Part:
    """The examples that a rank computes of a batch that is divided over the ranks, in order.

    A tensor of the batch has rows view by view, and for each example of a view the same number of rows, in order.

    Attributes:
        total: examples of the whole batch.
        start: the first one of this rank.
        stop: behind its last one.
        views: of each example.
    """

    total: int
    start: int
    stop: int
    views: int = 1

    @property
    def weight(self) -> float:
        """Of a mean over this rank's rows, where the mean of that over the ranks is the mean over all rows."""
        return num_ranks() * (self.stop - self.start) / self.total

    def placed(self, own: Tensor) -> Tensor:
        """The rank's rows in a tensor of the whole batch, in the same memory format; the other ranks' rows are 0."""
        each = len(own) // (self.views * (self.stop - self.start))
        padding = [0, 0] * (own.ndim - 1) + [each * self.start, each * (self.total - self.stop)]
        whole: Tensor = F.pad(own.unflatten(0, (self.views, -1)), padding).flatten(0, 1)
        if own.ndim == 4 and own.is_contiguous(memory_format=torch.channels_last):
            whole = whole.contiguous(memory_format=torch.channels_last)
        return whole

    def cut(self, whole: Tensor) -> Tensor:
        """The rank's rows of a tensor of the whole batch."""
        each = len(whole) // (self.views * self.total)
        by_view = whole.unflatten(0, (self.views, -1))
        own: Tensor = by_view[:, each * self.start : each * self.stop].flatten(0, 1)
        return own


def part_of(total: int, *, unit: int = 1, views: int = 1) -> Part | None:
    """The part of a batch that this rank computes; None where it computes all of it.

    So does every rank, with equal results, where there are fewer than `LEAST_IN_A_PART` examples for each, as in a
    small last batch of an epoch.

    Args:
        total: examples of the batch.
        unit: examples that stay together, see `share`.
        views: of each example.
    """
    ranks = num_ranks()
    if ranks == 1 or total // unit // ranks * unit < LEAST_IN_A_PART:
        return None
    here = share(total, unit=unit)
    return Part(total, here.start, here.stop, views)


_part: Part | None = None
_states: dict[torch.Generator, Tensor] | None = None


@contextlib.contextmanager
def computing(part: Part | None) -> Iterator[None]:
    """A context in which networks compute this part of a batch, or all of it; of the process, whatever the thread."""
    global _part
    before, _part = _part, part
    try:
        yield
    finally:
        _part = before


def current_part() -> Part | None:
    """The part that networks compute here; None where it is all of the batch."""
    return _part


def drawn_for_all(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """The rank's rows of what a function that draws random numbers for each row returns for the whole batch.

    Each rank draws the numbers of all rows, from generators in the same state: those of one process alone.

    Args:
        function: of tensors of N rows, to one of N rows, none of which depends on another.
        tensors: of this rank's rows.

    Raises:
        ValueError: their first dimension is not that of the batch.
    """
    if _part is None:
        return function(*tensors)
    own = _part.views * (_part.stop - _part.start)
    if any(len(tensor) % own for tensor in tensors):
        shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors)
        raise ValueError(f"dropout of {shapes}: on several ranks the first dimension must be the batch's, {own} rows")
    _check_draws()
    result = _part.cut(function(*(_part.placed(tensor) for tensor in tensors)))
    if _states is not None:
        _states.update({generator: generator.get_state() for generator in _states})
    return result


@contextlib.contextmanager
def no_other_draws(*generators: torch.Generator) -> Iterator[None]:
    """A context in which all that is drawn from these generators is drawn by `drawn_for_all`.

    Raises:
        ValueError: other numbers were drawn, which are the same for the rows of every rank.
    """
    global _states
    _states = {generator: generator.get_state() for generator in generators}
    try:
        yield
        _check_draws()
    finally:
        _states = None


def _check_draws() -> None:
    if any(not torch.equal(generator.get_state(), state) for generator, state in (_states or {}).items()):
        raise ValueError(
            "random numbers are drawn in the forward pass, and not by dropout modules (nn.Dropout, ...) alone: by "
            "stochastic depth, or the dropout within nn.LSTM; on several ranks they are not those of the whole batch: "
            "must be trained by one process"
        )
