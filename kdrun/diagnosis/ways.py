"""Checks of captured and compiled steps: some steps of a case on noise, in the fast way and in the ordinary one.

The comparison and its bounds are those by which a run decides on its steps (`kdrun.experiment.proof`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from kdrun.diagnosis.cases import Case
from kdrun.diagnosis.row import AUTOTUNED, BOTH, CAPTURED, COMPILED, REDUCED, Row
from kdrun.experiment.choices import Choices
from kdrun.experiment.proof import prove
from kdrun.training.cuda_graphs import NotCapturableError
from kdrun.training.step import DEFAULT_MODE

FULL = 3
"""The number of cases that are compiled in every way, the first ones; the others are compiled alone."""


@dataclass(frozen=True)
class Way:
    """A fast way to compute steps: captured, compiled, or both, and the mode of torch.compile."""

    check: str
    captured: bool = False
    compiled: bool = False
    mode: str = DEFAULT_MODE


CAPTURE = Way(CAPTURED, captured=True)
COMPILE = Way(COMPILED, compiled=True)
MORE = (
    Way(BOTH, captured=True, compiled=True),
    Way(REDUCED, compiled=True, mode="reduce-overhead"),
    Way(AUTOTUNED, compiled=True, mode="max-autotune"),
)
"""Of CUDA devices."""


def compiled_units(cases: Sequence[Case], device: torch.device) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """The checks of compiled steps, the most important first, each with what it is about."""
    more = MORE if device.type == "cuda" else ()
    pairs = [(way, case) for way in (COMPILE, *more) for case in cases[:FULL]]
    pairs += [(COMPILE, case) for case in cases[FULL:]]
    for way, case in pairs:
        yield f"{way.check}: {case.name}", partial(way_of, way, case, device)


def way_of(way: Way, case: Case, device: torch.device) -> list[Row]:
    """Compares the steps of a case; a method that cannot be captured by its nature has no line that fails."""
    choices = Choices(torch.get_num_threads(), compile=way.compiled, cuda_graphs=way.captured)
    proof = prove(case.spec, choices, device, mode=way.mode)
    found = proof.reason if proof.difference is None else f"{proof.difference:.2g} of the bound"
    agrees = None if NotCapturableError.__name__ in proof.reason else proof.agrees
    return [Row(way.check, case.name, "within the bounds", found, agrees, proof.ordinary_seconds, proof.fast_seconds)]
