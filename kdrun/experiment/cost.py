"""What a run costs to compute, and with how many threads it should be."""

from __future__ import annotations

import torch

from kdrun.experiment.build import build_student, needs_of
from kdrun.models.cost import num_macs
from kdrun.spec.spec import Component, Spec
from kdrun.training.precision import resolve_threads


def macs_per_example(spec: Spec, network: Component | None = None) -> int:
    """Multiply-accumulates of a forward pass on one example of a run's student, or of another network on its data."""
    data = spec.dataset
    with torch.device("meta"):
        return num_macs(build_student(network or spec.student, data), data.shape, data.dtype)


def threads_for(spec: Spec, device: torch.device, available: int) -> int:
    """The CPU threads for a run, by the size of its step: see `resolve_threads`."""
    macs = sum(macs_per_example(network) for network in (spec, *spec.teachers))
    return resolve_threads(macs * needs_of(spec).views * spec.recipe.batch_size, device, available)
