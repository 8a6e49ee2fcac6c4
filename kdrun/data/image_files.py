"""The image files of a directory: which files count, in which order, and how many were left out and why."""

from __future__ import annotations

import functools
import logging
import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NoReturn

from .errors import DataError
from .pixels import extensions

_SYSTEM_DIRECTORIES = frozenset(
    {"@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "lost+found"}
)
"""Directories that file systems, network drives and archivers add, in lower case."""

logger = logging.getLogger(__name__)


def image_files(directory: Path, left_out: Counter[str]) -> list[str]:
    """The paths of all images in a directory and below it, relative to it, sorted in Unicode's form NFC.

    Links to files are followed, links to directories are not: they can form loops. Hidden files and directories,
    those that systems add (`@eaDir`, `__MACOSX`, ...) and files of no image format are left out.

    Args:
        directory: may itself be a link.
        left_out: the files that are left out are counted here, by reason.

    Raises:
        DataError: a directory cannot be listed.
    """
    found = []
    for parent, directories, names in os.walk(directory, onerror=_refuse):
        directories[:] = [name for name in directories if _is_entered(Path(parent, name), left_out)]
        below = Path(parent).relative_to(directory).as_posix()
        place = "" if below == "." else f"{below}/"
        for name in names:
            if reason := _unfit(name):
                left_out[reason] += 1
            else:
                found.append(f"{place}{name}")
    return sorted(found, key=lambda name: (composed(name), name))


def class_directories(split: Path, left_out: Counter[str]) -> dict[str, Path]:
    """The directories of a split's classes by name, in the order of their labels.

    Names are in Unicode's form NFC, as macOS and Linux write them differently, and sorted; as numbers if all are
    numbers. A class may be a link to a directory, unless it leads to a directory that the link is in.

    Raises:
        DataError: there is none, two have the same name in NFC, or the split cannot be listed.
    """
    found: dict[str, Path] = {}
    try:
        entries = sorted(split.iterdir())
    except OSError as error:
        _refuse(error)
    for entry in entries:
        if not entry.is_dir():
            left_out["beside the classes"] += 1
            continue
        if entry.is_symlink() and split.resolve().is_relative_to(entry.resolve()):
            left_out["link(s) to directories"] += 1
        elif _is_entered(entry, left_out, through_links=True):
            name = composed(entry.name)
            if name in found:
                raise DataError(f"{split}: {found[name].name!r} and {entry.name!r} are the same class name {name!r}")
            found[name] = entry
    if not found:
        raise DataError(f"{split}: has no sub-directories; it needs one for each class")
    are_numbers = all(name.isascii() and name.isdecimal() for name in found)
    return {name: found[name] for name in sorted(found, key=lambda name: (int(name) if are_numbers else 0, name))}


def composed(name: str) -> str:
    """A name in Unicode's form NFC."""
    return unicodedata.normalize("NFC", name)


def describe_left_out(left_out: Counter[str]) -> str:
    """What was left out, by reason, the most frequent first; empty if nothing was."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items(), key=lambda item: -item[1]))


@functools.cache
def warn_once(message: str) -> None:
    """Logs a warning the first time: one command reads the same data several times."""
    logger.warning(message)


def _is_entered(directory: Path, left_out: Counter[str], *, through_links: bool = False) -> bool:
    """Whether the images of a directory count; if not, its files are counted as left out."""
    if directory.is_symlink() and not through_links:
        left_out["link(s) to directories"] += 1
        return False
    hidden = directory.name.startswith(".")
    if hidden or directory.name.lower() in _SYSTEM_DIRECTORIES:
        reason = f"in {'hidden directories' if hidden else directory.name}"
        if count := sum(len(names) for _, _, names in os.walk(directory)):
            left_out[reason] += count
        return False
    return True


def _unfit(name: str) -> str:
    """Why a file does not count; empty if it does."""
    if name.startswith("."):
        return "hidden"
    extension = os.path.splitext(name)[1].lower()
    return "" if extension in extensions() else extension or "without extension"


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error
