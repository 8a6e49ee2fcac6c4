"""Caches of tensors under the data home: files written whole or not at all, and verified when they are read."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from kdrun.files import open_regular, set_default_mode

_CHECKSUM = "sha256"

logger = logging.getLogger(__name__)


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a cached file; None where it is absent or, with a warning, where it is damaged."""
    from safetensors import SafetensorError, safe_open

    if not os.path.exists(path):
        return None
    try:
        with open_regular(path), safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            written = (opened.metadata() or {}).get(_CHECKSUM)
        if written == _checksum(tensors):
            return tensors
        reason = "its content is not what was written"
    except (OSError, SafetensorError) as error:
        reason = str(error)
    logger.warning("%s: this cached file cannot be used and is made again: %s", path, reason)
    return None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes the file under another name and renames it, so that it is complete or absent; a failure is a warning."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as directory:
            written = Path(directory) / path.name
            save_file(dict(tensors), written, {_CHECKSUM: _checksum(tensors)})
            set_default_mode(written)
            os.replace(written, path)
    except (OSError, SafetensorError) as error:
        logger.warning("%s cannot be kept in %s and will be made again: %s", path.name, path.parent, error)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and content."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy().data.cast("B"))
    return digest.hexdigest()
