"""Derived seeds: all randomness of a run is a function of its seed and of where in the run it is drawn.

So resuming needs no generator states, and what one consumer draws cannot shift what another draws.
"""

from __future__ import annotations

import hashlib
import json

import torch


def mix(*parts: int | str) -> int:
    """Derives a seed in [0, 2^63) from what it is for, e.g. `mix("order", seed, epoch)`.

    The same parts give the same seed on every platform and Python version; any other parts, or another order, give
    an unrelated one.
    """
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 1


def global_generators(device: torch.device) -> list[torch.Generator]:
    """The global generators that a computation on the CPU or a CUDA device draws from."""
    if device.type != "cuda":
        return [torch.default_generator]
    index = device.index if device.index is not None else torch.cuda.current_device()
    return [torch.default_generator, torch.cuda.default_generators[index]]


def seed_global_generators(seed: int, device: torch.device) -> None:
    """Seeds the global generators of the CPU and of `device` only (`torch.manual_seed` visits every back-end)."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
