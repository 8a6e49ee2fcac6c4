"""Failures that need more than being told: memory that ran out, and a device that is lost to all runs."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Mapping
from typing import Any

import torch

from kdrun.spec.components import all_options
from kdrun.spec.spec import Recipe, Spec

OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What a plain `RuntimeError` says of it: the CPU's allocator, CUDA itself, and its libraries."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, on the CPU or on a device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether CUDA computes nothing in this process any more: after an error of its own, other than of memory.

    A failed assertion in a kernel or an illegal address leaves a context in which every later call fails as well.
    """
    if is_out_of_memory(error):
        return False
    told = isinstance(error, RuntimeError) and "CUDA error: " in str(error)
    return told or isinstance(error, torch.AcceleratorError)


def first_line(error: BaseException) -> str:
    """What an error says first; CUDA's are followed by advice of many lines."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def out_of_memory(error: BaseException, *, batch_size: int, lockstep: int) -> MemoryError:
    """The same failure in words for people, and without what it refers to.

    Args:
        error: what was raised.
        batch_size: of the run.
        lockstep: how many runs were trained together.
    """
    together = f", or runtime.sweep=one_by_one ({lockstep} students were trained together)" if lockstep > 1 else ""
    return MemoryError(
        f"out of memory ({first_line(error)}). Try a smaller recipe.batch_size (it is {batch_size}){together}."
    )


FAR = 100.0
"""From this factor on an option is far from its default."""


def advice_on_divergence(spec: Spec) -> str:
    """What to try after a training diverged: the options that are far from their defaults, where there are any."""
    far = far_from_defaults(spec)
    if far:
        return f"Far from their defaults: {', '.join(far)}. Try values nearer to them"
    return "Try a smaller recipe.lr, or a longer recipe.warmup_epochs"


def far_from_defaults(spec: Spec) -> list[str]:
    """Numbers of a run's recipe and method that are `FAR` times their default or more, or as much smaller.

    Of the momentum that is its distance from 1. A default of 0 or None has nothing far from it.
    """
    recipe, default = vars(spec.recipe), vars(Recipe())
    pairs = {f"recipe.{name}": (recipe[name], default[name]) for name in ("lr", "lr_batch_size", "weight_decay")}
    known = _numbers(all_options(dataclasses.replace(spec.method, options=_without_values(spec.method.options))))
    pairs |= {f"method.{name}": (value, known.get(name)) for name, value in _numbers(all_options(spec.method)).items()}
    far = [f"{name}={value:g} (default {usual:g})" for name, (value, usual) in pairs.items() if _is_far(value, usual)]
    if _is_far(1 - spec.recipe.momentum, 1 - Recipe.momentum):
        far.append(f"recipe.momentum={spec.recipe.momentum!r} (default {Recipe.momentum:g})")
    return far


def _is_far(value: float | None, usual: float | None) -> bool:
    if not value or not usual:
        return False
    ratio = abs(value / usual)
    return ratio >= FAR or ratio <= 1 / FAR


def _numbers(options: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in options by their dotted names, those within mappings, too."""
    found: dict[str, float] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = value
    return found


def _without_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the structure that decides on others (the terms of a sum) and none of their values."""
    return {name: _without_values(value) for name, value in options.items() if isinstance(value, Mapping)}


def let_go(error: BaseException) -> None:
    """Empties the frames in an error's traceback, which keep the tensors that were being computed."""
    met: BaseException | None = error
    while met is not None:
        traceback.clear_frames(met.__traceback__)
        met = met.__cause__ or met.__context__
