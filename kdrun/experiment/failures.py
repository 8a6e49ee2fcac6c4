"""Failures that are more than an error message: out of memory, a lost device, divergence."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Mapping
from typing import Any

import torch

from kdrun.spec.components import all_options
from kdrun.spec.spec import Recipe, Spec

OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Parts of a `RuntimeError`'s message: from the CPU's allocator, CUDA, and its libraries."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, on the CPU or on a device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether CUDA is unusable in this process: after a CUDA error other than out of memory.

    After a failed assertion in a kernel or an illegal address every later call fails as well.
    """
    if is_out_of_memory(error):
        return False
    is_cuda_error = isinstance(error, RuntimeError) and "CUDA error: " in str(error)
    return is_cuda_error or isinstance(error, torch.AcceleratorError)


def first_line(error: BaseException) -> str:
    """The first line of an error's message; CUDA's messages go on with lines of advice."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def out_of_memory(error: BaseException, *, recipe: Recipe, lockstep: int) -> MemoryError:
    """The same failure with advice, and without the traceback that refers to tensors."""
    together = f", or runtime.sweep=one_by_one ({lockstep} students were trained together)" if lockstep > 1 else ""
    return MemoryError(
        f"out of memory ({first_line(error)}). Try a smaller recipe.batch_size (it is {recipe.batch_size}), a larger "
        f"recipe.accumulate (it is {recipe.accumulate}){together}."
    )


FAR = 100.0
"""The factor from which an option counts as far from its default."""


def advice_on_divergence(spec: Spec) -> str:
    """What to try after divergence: values nearer to the defaults, by name, or a smaller learning rate."""
    far = far_from_defaults(spec)
    if far:
        return f"Far from their defaults: {', '.join(far)}. Try values nearer to them"
    return "Try a smaller recipe.lr, or a longer recipe.warmup_epochs"


def far_from_defaults(spec: Spec) -> list[str]:
    """Numbers of a run's recipe and method that are at least `FAR` times their default, or at most a `FAR`-th.

    For the momentum its distance from 1 is compared. Nothing is far from a default of 0 or None.
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


def release_tensors(error: BaseException) -> None:
    """Empties the frames in an error's traceback, which keep the tensors that were being computed."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
