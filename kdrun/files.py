"""Files that a later step trusts: written whole or not at all, and checked by their SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file so that a reader, or a crash, meets the old content or the new, never a part.

    Temporary file in the same directory, flush, fsync, rename, fsync of the directory.

    Raises:
        OSError: the write failed (disk full, read-only, ...); the old file is intact and nothing is left over.
    """
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def keep_under(path: Path, other: Path) -> None:
    """Makes a file appear under another name of the same directory, too, in the place of what is there.

    Whatever `path` is replaced by later, `other` keeps the content of now.
    """
    temporary = other.with_name(f".{other.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        write_atomically(other, path.read_bytes())
        return
    os.replace(temporary, other)
    temporary.unlink(missing_ok=True)  # renaming does nothing where both names are of one file already
    _sync_directory(other.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, atomically; NaN and infinity are refused (they are not JSON)."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256(content: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(content).hexdigest()


def _umask() -> int:
    """The permissions that new files lack; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
