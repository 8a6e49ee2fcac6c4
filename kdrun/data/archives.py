"""Unpacks archives of published datasets: nothing is written unless every member is a plain file or directory.

The members are checked before the first is written: kind, name, encryption, and the total of their sizes.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from kdrun.files import MIB, checked_size, open_regular

from .errors import DataError

MOST_MEMBERS = 500_000
"""Files and directories of an archive; Tiny-ImageNet has 120,000."""

_LONGEST_NAME = 255
"""Bytes of a file name on common file systems."""

_SPECIAL = "is neither a file nor a directory"
_GZIP = b"\x1f\x8b"
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RecursionError)


class _Member(NamedTuple):
    """What is known of a member before it is unpacked; `reason` says why it is refused for its kind."""

    name: str
    size: int
    is_directory: bool
    reason: str = ""


def extract(archive: Path, target: Path, limit: int) -> None:
    """Unpacks a .zip, .tar or .tar.gz of plain files and directories.

    Args:
        archive: the file.
        target: an existing directory.
        limit: bytes that the archive, and all that it unpacks to, may have at most.

    Raises:
        DataError: the archive is damaged or too large, or a member is encrypted, a link, a device, outside of
            `target`, or of the same name as another, also where only the case differs.
        OSError: the archive cannot be read, or `target` cannot be written.
    """
    try:
        with open_regular(archive) as file:
            checked_size(file, limit)
            unpack = _extract_zip if zipfile.is_zipfile(file) else _extract_tar
            unpack(archive, file, target, limit)
    except _DAMAGED as error:
        raise DataError(f"{archive}: not a readable archive ({error})") from error
    except NotImplementedError as error:  # of compression methods
        raise DataError(f"{archive}: refused, {error}") from error


def _extract_zip(archive: Path, file: BinaryIO, target: Path, limit: int) -> None:
    with zipfile.ZipFile(file) as opened:
        _check(archive, [_zip_member(entry) for entry in opened.infolist()], limit)
        opened.extractall(target)


def _zip_member(entry: zipfile.ZipInfo) -> _Member:
    is_plain = stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
    reason = "is encrypted" if entry.flag_bits & 1 else "" if is_plain else _SPECIAL
    return _Member(entry.orig_filename, entry.file_size, entry.is_dir(), reason)


def _extract_tar(archive: Path, file: BinaryIO, target: Path, limit: int) -> None:
    with tempfile.TemporaryFile(dir=target) as plain:
        file.seek(0)
        is_compressed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        left = limit
        with gzip.open(file) if is_compressed else file as stream:
            while piece := stream.read(MIB):
                left -= len(piece)
                if left < 0:
                    raise DataError(f"{archive}: refused, it unpacks to more than {limit} bytes")
                plain.write(piece)
        plain.seek(0)
        with tarfile.open(fileobj=plain, mode="r:") as opened:
            _check(archive, [_tar_member(member) for member in opened], limit)
            # The filter is in every Python from 3.12 and in the later bug-fix releases of 3.10 and 3.11.
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            opened.extractall(target, **safe)  # type: ignore[arg-type]


def _tar_member(member: tarfile.TarInfo) -> _Member:
    is_plain = member.isfile() or member.isdir()
    return _Member(member.name, member.size, member.isdir(), "" if is_plain else _SPECIAL)


def _check(archive: Path, members: Sequence[_Member], limit: int) -> None:
    """Raises `DataError` for the first member that is not unpacked, or for all of them together."""
    if len(members) > MOST_MEMBERS:
        raise DataError(f"{archive}: refused, it has {len(members)} members; at most {MOST_MEMBERS} are unpacked")
    total = 0
    written: dict[str, tuple[str, bool]] = {}
    for member in members:
        total += member.size
        reason = member.reason or _misplaced(member.name) or _clash(member, written)
        if not reason and (member.size < 0 or total > limit):
            reason = f"takes the unpacked size to {total} bytes; at most {limit} are unpacked"
        if reason:
            raise DataError(f"{archive}: refused, its member {member.name!r} {reason}")


def _misplaced(name: str) -> str:
    """Why a member has no place below the target; empty if it has one."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        return "would be written outside of its directory"
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
        return f"has a name of more than {_LONGEST_NAME} bytes"
    return ""


def _clash(member: _Member, written: dict[str, tuple[str, bool]]) -> str:
    """Why a member, or a directory that it is in, would replace another; empty if it does not.

    Args:
        member: well placed.
        written: the paths so far, as a file system without case has them, each with its spelling and whether it is a
            file; those of the member are added.
    """
    parts = PurePosixPath(member.name).parts
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        is_file = depth == len(parts) and not member.is_directory
        key = unicodedata.normalize("NFC", path).casefold()
        if key not in written:
            written[key] = (path, is_file)
        elif is_file or written[key] != (path, False):
            return f"clashes with {written[key][0]!r}"
    return ""
