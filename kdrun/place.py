"""The place of this process among those that torchrun has started for one command: its ranks."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a process is among those of its command.

    Attributes:
        rank: from 0; rank 0 alone prints and writes.
        ranks: their number, over all nodes.
        local_rank: its number on its node, from 0.
        local_ranks: their number there.
        node: from 0.
    """

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1
    node: int = 0


def place() -> Place:
    """The place of this process, by the variables that torchrun sets; without them it is the only rank."""
    if not _number("WORLD_SIZE", 1) > 1:
        return Place()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
    return Place(*(_number(name, 0) for name in names))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default


def obstacle() -> str | None:
    """Why this process is one of several and cannot be a rank: another launcher than torchrun. None otherwise."""
    ranks = _number("WORLD_SIZE", 1)
    if ranks > 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return (
            f"WORLD_SIZE={ranks}: several processes are one run under torchrun only "
            "(torchrun --nproc_per_node=N -m kdrun ...); unset WORLD_SIZE for a run of one process"
        )
    return None
