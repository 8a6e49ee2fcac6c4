"""Checks of some steps of a case, without a run: captured and compiled steps, and the fused optimiser.

Captured and compiled steps are compared as where a run decides on its steps (`kdrun.experiment.proof`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from kdrun.diagnosis.cases import Case
from kdrun.diagnosis.row import AUTOTUNED, BOTH, CAPTURED, COMPILED, OPTIMISER, REDUCED, Row, Unit
from kdrun.experiment.build import build_student
from kdrun.experiment.choices import Choices
from kdrun.experiment.proof import prove
from kdrun.experiment.stages import optimizer_for
from kdrun.training.cuda_graphs import NotCapturableError
from kdrun.training.precision import on_device, synchronize
from kdrun.training.step import DEFAULT_MODE

OPTIMISER_STEPS = 10
OPTIMISER_BOUND = 1e-5
"""Relative difference of the weights after these steps."""


def compiled_units(cases: Sequence[Case], device: torch.device) -> Iterator[Unit]:
    """The checks of compiled steps, the most important first.

    A compilation takes 10 to 60 s, so on CUDA few cases are compiled in every way.
    """
    if device.type == "cuda":
        pairs = [(check, case) for case in cases[:2] for check in (COMPILED, BOTH, REDUCED)]
        pairs += [(AUTOTUNED, case) for case in cases[:1]] + [(COMPILED, case) for case in cases[2:]]
    else:
        pairs = [(COMPILED, case) for case in cases]
    for check, case in pairs:
        yield Unit(check, case.name, partial(fast_steps, check, case, device))


def fast_steps(check: str, case: Case, device: torch.device) -> list[Row]:
    """Compares captured or compiled steps of a case with ordinary ones.

    A method that cannot be captured by its nature is no failure, nor is a mode of torch.compile that no run uses.
    """
    choices = Choices(torch.get_num_threads(), compile=check != CAPTURED, cuda_graphs=check in (CAPTURED, BOTH))
    mode = check if check in (REDUCED, AUTOTUNED) else DEFAULT_MODE
    proof = prove(case.spec, choices, device, mode=mode)
    found = proof.reason or f"{proof.difference:.2g} of the bound"
    is_excused = NotCapturableError.__name__ in proof.reason or mode != DEFAULT_MODE
    agrees = None if is_excused and not proof.agrees else proof.agrees
    return [Row(check, case.name, "within the bounds", found, agrees, proof.ordinary_seconds, proof.fast_seconds)]


def optimiser(case: Case, name: str, device: torch.device) -> list[Row]:
    """Compares the optimiser of runs with torch's loop over parameters, on equal random gradients."""
    recipe = replace(case.spec.recipe, optimizer=name)
    weights, seconds = [], []
    for fused in (False, True):
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        parameters = list(on_device(build_student(case.spec.student, case.spec.dataset), device).parameters())
        optimizer = optimizer_for(recipe, parameters)
        if not fused:
            for group in optimizer.param_groups:
                group["fused"] = group["foreach"] = False
        taken = 0.0
        for _ in range(OPTIMISER_STEPS):
            for parameter in parameters:
                # In the parameter's memory format, as autograd does it: the fused optimiser relies on that.
                parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
            synchronize(device)
            begun = time.perf_counter()
            optimizer.step()
            synchronize(device)
            taken += time.perf_counter() - begun
        weights.append(torch.cat([parameter.detach().double().flatten() for parameter in parameters]))
        seconds.append(taken / OPTIMISER_STEPS)
    apart = ((weights[0] - weights[1]).norm() / weights[0].norm()).item()
    expected = f"weights at most {OPTIMISER_BOUND:.0e} apart"
    found = "equal" if apart == 0 else f"{apart:.1e} apart"
    return [Row(OPTIMISER, f"{case.name.split()[0]} {name}", expected, found, apart <= OPTIMISER_BOUND, *seconds)]
