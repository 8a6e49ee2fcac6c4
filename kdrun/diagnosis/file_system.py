"""What the file system of an output root can do, tried in a temporary directory that is removed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from kdrun.files import try_lock

CONSEQUENCES = {
    "locks": "runs are guarded by signs of life only, searches cannot be shared",
    "hard_links": "checkpoints are copied instead",
    "atomic_rename": "a kill can lose files",
    "fsync": "a crash of the machine can lose files",
    "directory_fsync": "a crash of the machine can lose files",
}
"""What a missing feature means."""


def features(root: Path) -> dict[str, Any]:
    """The features of a directory's file system: True, False, or None where it was not tried.

    Where the directory does not exist, its nearest parent is described and nothing is tried.
    """
    there = next(place for place in (root, *root.absolute().parents) if place.exists())
    found: dict[str, Any] = {
        "root": str(root.absolute()),
        "exists": there == root,
        "writable": os.access(there, os.W_OK | os.X_OK),
        "free_bytes": shutil.disk_usage(there).free,
        **dict.fromkeys(CONSEQUENCES),
    }
    if found["exists"] and found["writable"]:
        with tempfile.TemporaryDirectory(dir=root, prefix=".doctor-") as name:
            found |= {feature: _works(feature, Path(name)) for feature in CONSEQUENCES}
    return found


def _works(feature: str, directory: Path) -> bool:
    file, other = directory / "file", directory / "other"
    file.write_bytes(b"old")
    other.unlink(missing_ok=True)
    try:
        with file.open("rb+") as opened, file.open("rb") as again:
            match feature:
                case "locks":
                    return try_lock(opened.fileno()) is True and try_lock(again.fileno()) is False
                case "hard_links":
                    os.link(file, other)
                    return os.path.samefile(file, other)
                case "atomic_rename":  # an open file keeps the content that is replaced
                    other.write_bytes(b"new")
                    os.replace(other, file)
                    return opened.read() == b"old" and file.read_bytes() == b"new"
                case "fsync":
                    os.fsync(opened.fileno())
                case "directory_fsync":
                    _sync(directory)
    except OSError:
        return False
    return True


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
