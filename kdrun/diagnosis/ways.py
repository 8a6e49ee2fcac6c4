"""Checks of captured and compiled steps: some steps of a case on noise, in the fast way and in the ordinary one.

The comparison and its bounds are those by which a run decides on its steps (`kdrun.experiment.proof`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from kdrun.diagnosis.cases import Case
from kdrun.diagnosis.row import AUTOTUNED, BOTH, CAPTURED, COMPILED, REDUCED, Row, Unit
from kdrun.experiment.choices import Choices
from kdrun.experiment.proof import prove
from kdrun.training.cuda_graphs import NotCapturableError
from kdrun.training.step import DEFAULT_MODE


@dataclass(frozen=True)
class Way:
    """A fast way to compute steps: captured, compiled, or both, and the mode of torch.compile."""

    check: str
    captured: bool = False
    compiled: bool = False
    mode: str = DEFAULT_MODE


CAPTURE = Way(CAPTURED, captured=True)
COMPILE = Way(COMPILED, compiled=True)
BOTH_WAYS = Way(BOTH, captured=True, compiled=True)
REDUCE = Way(REDUCED, compiled=True, mode="reduce-overhead")
AUTOTUNE = Way(AUTOTUNED, compiled=True, mode="max-autotune")


def compiled_units(cases: Sequence[Case], device: torch.device) -> Iterator[Unit]:
    """The checks of compiled steps, the most important first.

    A compilation takes 10 to 60 s, so on CUDA few cases are compiled in every way.
    """
    if device.type == "cuda":
        pairs = [(way, case) for case in cases[:2] for way in (COMPILE, BOTH_WAYS, REDUCE)]
        pairs += [(AUTOTUNE, case) for case in cases[:1]] + [(COMPILE, case) for case in cases[2:]]
    else:
        pairs = [(COMPILE, case) for case in cases]
    for way, case in pairs:
        yield Unit(way.check, case.name, partial(way_of, way, case, device))


def way_of(way: Way, case: Case, device: torch.device) -> list[Row]:
    """Compares the steps of a case.

    A method that cannot be captured by its nature is no failure, nor is a way that no run takes.
    """
    choices = Choices(torch.get_num_threads(), compile=way.compiled, cuda_graphs=way.captured)
    proof = prove(case.spec, choices, device, mode=way.mode)
    found = proof.reason or f"{proof.difference:.2g} of the bound"
    is_excused = NotCapturableError.__name__ in proof.reason or way.mode != DEFAULT_MODE
    agrees = None if is_excused and not proof.agrees else proof.agrees
    return [Row(way.check, case.name, "within the bounds", found, agrees, proof.ordinary_seconds, proof.fast_seconds)]
