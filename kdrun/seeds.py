"""Derived seeds: all randomness of a run is a function of its seed and of where in the run it is drawn.

So resuming needs no generator states, and what one consumer draws cannot shift what another draws.
"""

from __future__ import annotations

import hashlib

import torch


def mix(*parts: int | str) -> int:
    """A seed in [0, 2^63) from a tuple of integers and names: the same on every platform and version."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_global_generators(seed: int, device: torch.device) -> None:
    """Seeds the global generators of the CPU and of `device` only (`torch.manual_seed` visits every back-end)."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
