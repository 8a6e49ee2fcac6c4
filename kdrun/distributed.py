"""The ranks of one run that is computed on several devices: torch.distributed's default group.

Without a group this process is the only rank, 0 of 1, and everything here is a matter of this process alone.
"""

from __future__ import annotations

from typing import Any

from torch import distributed


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
