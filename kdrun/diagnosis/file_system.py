"""What the file system of an output root can do, tried in a temporary directory that is removed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from kdrun.files import try_lock

CONSEQUENCES = {
    "locks": "runs are not guarded against a second command",
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
        **dict.fromkeys(FEATURES),
    }
    if found["exists"] and found["writable"]:
        with tempfile.TemporaryDirectory(dir=root, prefix=".doctor-") as name:
            found |= {feature: _works(feature, Path(name)) for feature in FEATURES}
    return found


def _works(feature: str, directory: Path) -> bool:
    try:
        return FEATURES[feature](directory)
    except OSError:
        return False


def _locks(directory: Path) -> bool:
    """Whether a second open file cannot be locked while the first is."""
    path = directory / "locked"
    with path.open("wb") as first, path.open("rb") as second:
        return try_lock(first.fileno()) is True and try_lock(second.fileno()) is False


def _links(directory: Path) -> bool:
    """Whether a hard link keeps the content of a file that is replaced."""
    path, link = directory / "linked", directory / "link"
    path.write_bytes(b"old")
    os.link(path, link)
    _replace(path, b"new")
    return link.read_bytes() == b"old"


def _renames(directory: Path) -> bool:
    """Whether renaming replaces a file, of which an open one keeps the old content."""
    path = directory / "renamed"
    path.write_bytes(b"old")
    with path.open("rb") as opened:
        _replace(path, b"new")
        return opened.read() == b"old" and path.read_bytes() == b"new"


def _replace(path: Path, content: bytes) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(content)
    os.replace(other, path)


def _syncs(directory: Path) -> bool:
    with (directory / "synced").open("wb") as file:
        os.fsync(file.fileno())
    return True


def _syncs_directory(directory: Path) -> bool:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


FEATURES = {
    "locks": _locks,
    "hard_links": _links,
    "atomic_rename": _renames,
    "fsync": _syncs,
    "directory_fsync": _syncs_directory,
}
