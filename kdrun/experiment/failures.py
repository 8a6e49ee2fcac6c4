"""Failures that need more than being told: memory that ran out, and a device that is lost to all runs."""

from __future__ import annotations

import traceback

import torch

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


def let_go(error: BaseException) -> None:
    """Empties the frames in an error's traceback, which keep the tensors that were being computed."""
    met: BaseException | None = error
    while met is not None:
        traceback.clear_frames(met.__traceback__)
        met = met.__cause__ or met.__context__
