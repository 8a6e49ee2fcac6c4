"""Checkpoints: tensors and plain values only, written atomically, verified by SHA-256 before they are read.

A checkpoint is `MAGIC + sha256(payload) + payload`, the payload being what `torch.save` writes. torch itself checks
no checksum, so a flipped bit would otherwise load as a wrong weight.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.files import sha256, write_atomically

MAGIC = b"KDRUNCP1\n"
_HEADER = len(MAGIC) + hashlib.sha256().digest_size
SHOWN = 3
"""Tensors that a message names."""


class CheckpointError(RuntimeError):
    """A checkpoint that is not what was written: truncated, altered, or another kind of file."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain Python values) atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    write_atomically(path, MAGIC + hashlib.sha256(payload).digest() + payload)


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Reads a checkpoint onto `device`.

    Raises:
        CheckpointError: the file is not a checkpoint, or its content does not have the recorded SHA-256.
        FileNotFoundError: there is none.
    """
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        raise CheckpointError(f"{path} is not a kdrun checkpoint; remove it to train from the start")
    payload = content[_HEADER:]
    if hashlib.sha256(payload).digest() != content[len(MAGIC) : _HEADER]:
        raise CheckpointError(
            f"{path} is damaged: its content does not have the SHA-256 it was saved with; "
            "remove it to train from the start"
        )
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds more than tensors and plain values; it was not read") from error
    return state


def export_weights(path: Path, model: nn.Module) -> str:
    """Writes a model's state dict as safetensors, in contiguous memory on the CPU; returns the file's SHA-256."""
    content = as_safetensors(model)
    write_atomically(path, content)
    return sha256(content)


def as_safetensors(model: nn.Module) -> bytes:
    """The content of the file that `export_weights` writes: the same bytes for the same weights."""
    from safetensors.torch import save

    return save({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()})


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Reads a state dict from `.safetensors`, or from what `torch.save` wrote of tensors and plain values.

    Of a larger checkpoint the part under `state_dict`, `model_state_dict`, `model` or `net` is taken, and a
    `module.` prefix (DataParallel) is dropped.

    Returns:
        The state dict, on the CPU, and the file's SHA-256.

    Raises:
        CheckpointError: the file cannot be read safely, holds no state dict, or values that are not finite in fp32.
        FileNotFoundError: there is none.
    """
    content = path.read_bytes()
    if content.startswith(MAGIC):
        raise CheckpointError(f"{path} is a checkpoint of a run; its trained weights are in student.safetensors")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load as from_safetensors

            state: Any = from_safetensors(content)
        else:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the class depends on where and how the file is broken
        # Not torch's own words: they advise to unpickle the file all the same.
        raise CheckpointError(
            f"{path} cannot be read as weights: it must be .safetensors, or a state dict saved by torch.save that "
            f"holds tensors and plain values only ({type(error).__name__})"
        ) from error
    if isinstance(state, dict):
        parts = (state.get(key) for key in ("state_dict", "model_state_dict", "model", "net"))
        state = next((part for part in parts if isinstance(part, dict)), state)
    if not _is_state_dict(state):
        raise CheckpointError(f"{path} holds no state dict (names to tensors)")
    if bad := _not_finite(state):
        more = f", and {len(bad) - SHOWN} more tensors" if len(bad) > SHOWN else ""
        raise CheckpointError(f"{path} holds values that are not finite in fp32: {', '.join(bad[:SHOWN])}{more}")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}, sha256(content)


def _not_finite(state: dict[str, Tensor]) -> list[str]:
    """The tensors with a NaN or an infinity, each with how many; a value too large for fp32 counts as one."""
    found = []
    for name, tensor in state.items():
        kind = torch.complex64 if tensor.is_complex() else torch.float32
        if tensor.is_complex() or tensor.is_floating_point():
            count = int((~tensor.to(kind).isfinite()).sum())
            found += [f"{name} ({count} of {tensor.numel()} values)"] if count else []
    return found


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )
