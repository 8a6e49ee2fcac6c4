"""Checkpoints: tensors and plain values only, written atomically, verified by SHA-256 before they are read.

A checkpoint is `MAGIC + sha256(payload) + payload`, the payload being what `torch.save` writes. torch itself checks
no checksum, so a flipped bit would otherwise load as a wrong weight.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kdrun.files import checked_size, open_regular, read_regular, read_rest, sha256, write_atomically
from kdrun.memory import free_bytes

T = TypeVar("T")
MAGIC = b"KDRUNCP1\n"
_HEADER = len(MAGIC) + hashlib.sha256().digest_size
SHOWN = 3
"""Tensors that a message names."""

LONGEST_NAME = 100
"""Characters of a tensor's name that a message shows."""


class CheckpointError(RuntimeError):
    """A file of weights or a checkpoint that is truncated, altered, or of another kind."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain Python values) atomically."""
    buffer = io.BytesIO()
    buffer.write(MAGIC.ljust(_HEADER))
    torch.save(state, buffer)
    content = buffer.getbuffer()
    content[len(MAGIC) : _HEADER] = hashlib.sha256(content[_HEADER:]).digest()
    write_atomically(path, content)


def load(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Reads a checkpoint onto `device`.

    Raises:
        CheckpointError: the file is not a checkpoint, or its content does not have the recorded SHA-256.
        OSError: it is absent, no regular file, or larger than the free memory.
    """
    with open_regular(path) as file:
        size = checked_size(file, free_bytes())
        header = file.read(_HEADER)
        if not header.startswith(MAGIC):
            raise CheckpointError(f"{path} is not a kdrun checkpoint; remove it to train from the start")
        payload = read_rest(file, size - len(header))
    if hashlib.sha256(payload).digest() != header[len(MAGIC) :]:
        raise CheckpointError(
            f"{path} is damaged: its content does not have the SHA-256 it was saved with; "
            "remove it to train from the start"
        )
    if not _is_uncompressed(payload):
        raise CheckpointError(f"{path} is not as kdrun writes checkpoints: its parts are larger than the file")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RecursionError) as error:
        raise CheckpointError(f"{path} holds more than tensors and plain values; it was not read") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is not as kdrun writes checkpoints: it holds a {type(state).__name__}")
    return state


def _is_uncompressed(payload: bytes) -> bool:
    """Whether a ZIP archive unpacks to no more than its own size, as those of `torch.save` do."""
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError):
        return False
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    return stored and sum(entry.file_size for entry in entries) <= len(payload)


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
    """Reads a state dict that `export_weights` wrote.

    Returns:
        The state dict, on the CPU, and the file's SHA-256.

    Raises:
        CheckpointError: the file cannot be read safely, holds no state dict, or values that are not finite in fp32.
        FileNotFoundError: there is none.
    """
    state, digest = read_file(path)
    if not is_state_dict(state):
        raise CheckpointError(f"{path} holds no state dict (names to tensors)")
    check_finite(path, state)
    return state, digest


def read_file(path: Path) -> tuple[Any, str]:
    """Reads what a file of weights holds, of which no code is run: `.safetensors`, or what `torch.save` wrote.

    Besides tensors and plain values it may have numpy's scalars and arrays, such as an accuracy: these become
    `NumpyObject`.

    Returns:
        The content, on the CPU, and the file's SHA-256.

    Raises:
        CheckpointError: the file cannot be read safely.
        OSError: it is absent, no regular file, or larger than the free memory.
    """
    content = read_regular(path, free_bytes())
    if content.startswith(MAGIC):
        raise CheckpointError(f"{path} is a checkpoint of a run; its trained weights are in student.safetensors")
    if zipfile.is_zipfile(io.BytesIO(content)) and not _is_uncompressed(content):
        raise CheckpointError(f"{path} is not as torch.save writes files: its parts are larger than the file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load as from_safetensors

            return from_safetensors(content), sha256(content)
        with torch.serialization.safe_globals([(NumpyObject, name) for name in NUMPY]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how the file was written, which nothing depends on
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), sha256(content)
    except Exception as error:  # the class depends on where and how the file is broken
        # Not torch's own words: they advise to unpickle the file all the same.
        raise CheckpointError(f"{path} cannot be read as weights: {_why_unreadable(error)}") from error


class NumpyObject:
    """Stands for a scalar, an array or a type of numpy's: what it is made from is dropped."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


NUMPY = (
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
"""The names by which pickles make numpy's scalars and arrays."""


def _why_unreadable(error: Exception) -> str:
    if foreign := re.search(r"GLOBAL (\S{1,100}) (?:was not|whose module)", str(error)):
        return (
            f"it holds an object of {shown_name(foreign[1])}, and no code of a file is run. If its source is trusted, "
            "save the tensors alone: content = torch.load(FILE, map_location='cpu', weights_only=False), then "
            "torch.save(content['model'], 'weights.pt'), or content.state_dict() of a whole network"
        )
    if "TorchScript" in str(error):
        return "it is a TorchScript archive: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt') makes one"
    return (
        "it must be .safetensors, or a state dict saved by torch.save that holds tensors and plain values only "
        f"({type(error).__name__})"
    )


def shown_name(name: str) -> str:
    """A tensor's name for messages: control characters escaped, a very long name as its length."""
    escaped = name if name.isprintable() else name.encode("unicode_escape").decode()
    return escaped if len(escaped) <= LONGEST_NAME else f"(a name of {len(name):,} characters)"


def check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raises `CheckpointError` for tensors with values that are not finite in fp32, by their names in the file."""
    if bad := _not_finite(state):
        raise CheckpointError(f"{path} holds values that are not finite in fp32: {some(bad)}")


def some(items: Collection[T], show: Callable[[T], str] = str) -> str:
    """The first `SHOWN` items, and how many more there are."""
    more = [f"{len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return "; ".join([*map(show, itertools.islice(items, SHOWN)), *more])


def _not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The tensors with a NaN or an infinity, each with how many; a value too large for fp32 counts as one."""
    found = []
    for name, tensor in state.items():
        kind = torch.complex64 if tensor.is_complex() else torch.float32
        if tensor.is_complex() or tensor.is_floating_point():
            count = int((~tensor.to(kind).isfinite()).sum())
            found += [f"{shown_name(name)} ({count} of {tensor.numel()} values)"] if count else []
    return found


def is_state_dict(value: Any) -> bool:
    """Whether a value maps names to tensors, at least one."""
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in dict.items(value))
    )
