"""The sizes of networks, and the number of threads for a run."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass

import torch

from kdrun.experiment.build import examined, needs_of, network_key, without_weights
from kdrun.models.cost import num_macs, num_parameters
from kdrun.place import place
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.spec import Component, Spec
from kdrun.training.precision import resolve_threads


@dataclass(frozen=True)
class Size:
    """The size of a network for a dataset.

    Attributes:
        params: trainable ones.
        macs: multiply-accumulates of a forward pass on one example.
        modules: of torch, the network itself included.
    """

    params: int
    macs: int
    modules: int


_SIZES: dict[Hashable, Size] = {}


def size_of(network: Component, data: DatasetSpec) -> Size:
    """The size of a network for a dataset; computed once, since the runs of a table have the same few networks."""
    key = network_key(network, data)
    if key not in _SIZES:
        model = without_weights(network, data)
        with examined(model):
            macs = num_macs(model, data.shape, data.dtype)
        _SIZES[key] = Size(num_parameters(model), macs, sum(1 for _ in model.modules()))
    return _SIZES[key]


def available_threads() -> int:
    """The CPU threads of this process: torch's default, or its share of the cores where several ranks are on a node.

    There torchrun sets torch's default to 1.
    """
    local_ranks = place().local_ranks
    return torch.get_num_threads() if local_ranks == 1 else max(1, (os.cpu_count() or 1) // local_ranks)


def threads_for(spec: Spec, device: torch.device, available: int) -> int:
    """The CPU threads for a run, by the size of its step: see `resolve_threads`."""
    macs = sum(size_of(run.student, run.dataset).macs for run in (spec, *spec.teachers))
    return resolve_threads(macs * needs_of(spec).views * spec.recipe.micro_batch_size, device, available)
