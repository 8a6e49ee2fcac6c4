"""Files written whole or not at all, and checked by their SHA-256.

Files of other processes are read through `open_regular`: a FIFO or a device would never end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}
"""Error numbers of calls that cluster and cloud file systems do not support."""

ATTEMPTS = 5
"""To read a file that another host replaces meanwhile, which is an error on NFS (ESTALE)."""

MIB = 2**20
JSON_LIMIT = 16 * MIB
"""Bytes of a run's JSON file, at most; a large one has some hundred thousand."""

_SPECIAL = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


class DamagedError(RuntimeError):
    """A file is cut short, altered, or of another kind than was written."""


class UnfitFileError(OSError):
    """A file that is not read: not a regular file, or too large."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(errno.EINVAL, reason, str(path))

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def open_regular(path: Path | str) -> BinaryIO:
    """Opens a regular file for reading, through links, without buffer; never waits for a writer.

    Raises:
        UnfitFileError: a directory, FIFO, socket or device.
        OSError: it is absent or cannot be read.
    """
    _check_regular(path, os.stat(path))  # before it is opened: opening a device can have effects
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, flags))  # noqa: SIM115 (returned)
    try:
        _check_regular(path, os.fstat(file.fileno()))  # it may have been replaced meanwhile
    except UnfitFileError:
        file.close()
        raise
    return file


def _check_regular(path: Path | str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _SPECIAL.get(stat.S_IFMT(status.st_mode), "a special file")
        raise UnfitFileError(path, f"is {kind}; must be a regular file")


def read_regular(path: Path | str, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        UnfitFileError: it is another kind of file, or larger.
        OSError: it is absent or cannot be read.
    """
    attempts_left = ATTEMPTS
    while True:
        attempts_left -= 1
        try:
            with open_regular(path) as file:
                return read_rest(file, checked_size(file, limit))
        except OSError as error:
            if error.errno != errno.ESTALE or not attempts_left:
                raise


def checked_size(file: BinaryIO, limit: int) -> int:
    """The size of an open file in bytes.

    Raises:
        UnfitFileError: it is larger than `limit`.
    """
    size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise UnfitFileError(file.name, f"has {size} bytes; at most {limit} are read")
    return size


def read_rest(file: BinaryIO, size: int) -> bytes:
    """The rest of an open file, which must be `size` bytes.

    Raises:
        UnfitFileError: it has more or fewer.
    """
    parts, left = [], size + 1
    while left and (part := file.read(min(left, 2**30))):  # a system call returns 2 GiB at most
        parts.append(part)
        left -= len(part)
    if left != 1:
        raise UnfitFileError(file.name, "changed while it was read")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def sha256_of(path: Path | str, limit: int) -> str:
    """Hex SHA-256 of a regular file of at most `limit` bytes, read in pieces; raises as `read_regular`."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        left = checked_size(file, limit)
        while piece := file.read(MIB):
            digest.update(piece)
            left -= len(piece)
            if left < 0:
                raise UnfitFileError(path, "changed while it was read")
    return digest.hexdigest()


def parse_json(text: str | bytes) -> Any:
    """Parses JSON.

    Raises:
        ValueError: no JSON, or nested too deeply for Python.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def expanded(name: str) -> Path:
    """A path, `~` being the user's home.

    Raises:
        FileNotFoundError: no home is known: there is no $HOME, and the user id has none, or there is no such user.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        user = name.split("/", 1)[0]
        reason = "no home directory is known; set HOME" if user == "~" else f"{user}: no home directory is known"
        raise FileNotFoundError(errno.ENOENT, reason, name) from error


def write_atomically(path: Path, content: bytes | memoryview | str) -> None:
    """Writes a file so that a reader, or a crash, finds the old content or the new, never a part.

    Temporary file in the same directory, flush, fsync, rename, fsync of the directory. The temporary file is locked
    until it is renamed, so that `sweep` can distinguish it from the leftover of a killed process.

    Raises:
        OSError: the write failed (disk full, read-only, ...), with the file's name; the old file is intact and no
            temporary file remains.
    """
    data = content.encode() if isinstance(content, str) else content
    with naming(path):
        while not _replaced(path, data):
            pass
    _sync_directory(path.parent)


def _replaced(path: Path, data: bytes | memoryview) -> bool:
    """Replaces a file by a new one; False if another process swept that away before it was locked."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    # Not by tempfile: its files are private, and the usual mode is only known by setting that of all threads.
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            try_lock(file.fileno())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            try:
                os.replace(temporary, path)
            except FileNotFoundError:
                if not path.parent.is_dir():
                    raise
                return False
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return True


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """System errors in this context that name no file, or a temporary one beside `path`, name `path`.

    The error of a write to a full disk has no file name.

    Raises:
        OSError: with the same number, and `path` as its file.
    """
    try:
        yield
    except OSError as error:
        beside = error.filename is None or Path(os.fsdecode(error.filename)).parent == path.parent
        if error.errno is None or not beside:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def try_lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Locks an open file until it is closed, without waiting.

    Returns:
        True; False where another process has a lock that excludes this one; None where the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return None
    return True


@contextlib.contextmanager
def where_supported() -> Iterator[None]:
    """Ignores errors of calls that a file system does not support: permissions, or a flush of directories."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def sweep(directory: Path) -> None:
    """Removes a directory's temporary files of killed processes, not those being written."""
    for leftover in directory.glob(".*.tmp"):
        if not leftover.is_file():
            continue
        try:
            with leftover.open("r+b") as file:
                if try_lock(file.fileno()):  # else it is being written
                    leftover.unlink()
        except FileNotFoundError:  # renamed meanwhile
            continue


def remove_tree(directory: Path) -> None:
    """Removes a directory and its content, also while another process does.

    Raises:
        OSError: a part cannot be removed.
    """
    while directory.exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)


def keep_under(path: Path, other: Path) -> None:
    """Hard-links a file to a second name in its directory, replacing that; copies it where links are not supported.

    `other` keeps the content when `path` is replaced later.
    """
    temporary = other.with_name(f".{other.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        write_atomically(other, path.read_bytes())
        return
    os.replace(temporary, other)
    temporary.unlink(missing_ok=True)  # renaming does nothing if both are links to one file
    _sync_directory(other.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, atomically; NaN and infinity are refused (they are not JSON)."""
    write_atomically(path, _json(value))


def read_json(path: Path) -> Any:
    """Reads a file of `write_json`.

    Raises:
        DamagedError: no JSON, or not byte by byte as `write_json` writes it: a flipped bit may leave the value equal.
        UnfitFileError: it is no regular file, or larger than `JSON_LIMIT`.
        FileNotFoundError: there is none.
    """
    try:
        text = read_regular(path, JSON_LIMIT).decode()
        value = parse_json(text)
        written = _json(value)
    except ValueError as error:
        raise DamagedError(f"{path} is not readable JSON ({error})") from error
    if text != written:
        raise DamagedError(f"{path} is not whole: it is not written as kdrun writes")
    return value


def write_record(path: Path, fields: Mapping[str, Any]) -> None:
    """Writes an object as JSON, atomically, with the SHA-256 of its canonical form (sorted keys, no spaces) in it."""
    write_json(path, {**fields, "sha256": _digest(fields)})


def read_record(path: Path) -> dict[str, Any]:
    """Reads a file of `write_record`, without the SHA-256; any flipped bit is noticed.

    Raises:
        DamagedError: no JSON, no SHA-256, or another content than was written.
        FileNotFoundError: there is none.
    """
    fields = read_json(path)
    if not isinstance(fields, dict) or "sha256" not in fields:
        raise DamagedError(f"{path} is not whole: it has no SHA-256 of its content")
    if fields.pop("sha256") != _digest(fields):
        raise DamagedError(f"{path} is not whole: its content does not have the SHA-256 it was written with")
    return fields


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _digest(fields: Mapping[str, Any]) -> str:
    return sha256(json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def sha256(content: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(content).hexdigest()


def set_default_mode(path: Path) -> None:
    """Gives a file the permissions of an ordinary new one: temporary files are private."""
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _sync_directory(directory: Path) -> None:
    with naming(directory), where_supported():
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_in_dry_run = False
_COMPILER_CACHE = "TORCHINDUCTOR_CACHE_DIR"


@contextlib.contextmanager
def dry_run() -> Iterator[None]:
    """In this context no cache or bytecode is written, and nothing is downloaded.

    torch's compiler creates its cache directory when it is imported: it gets an existing one.
    """
    global _in_dry_run
    before = (_in_dry_run, sys.dont_write_bytecode)
    cache = os.environ.get(_COMPILER_CACHE)
    _in_dry_run = sys.dont_write_bytecode = True
    os.environ[_COMPILER_CACHE] = os.sep
    try:
        yield
    finally:
        _in_dry_run, sys.dont_write_bytecode = before
        os.environ.pop(_COMPILER_CACHE)
        if cache is not None:
            os.environ[_COMPILER_CACHE] = cache


def is_dry_run() -> bool:
    """Whether a dry run is under way."""
    return _in_dry_run
