"""Files that a later step trusts: written whole or not at all, and checked by their SHA-256."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}
"""What cluster and cloud file systems answer to a call that they do not have."""


class DamagedError(RuntimeError):
    """A file is not what was written: cut short, altered, or of another kind."""


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


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file so that a reader, or a crash, meets the old content or the new, never a part.

    Temporary file in the same directory, flush, fsync, rename, fsync of the directory. The temporary file is locked
    for as long as it has its name, so that `sweep` knows it from one that a killed process left.

    Raises:
        OSError: the write failed (disk full, read-only, ...); the old file is intact and nothing is left over.
    """
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            try_lock(file.fileno())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            with where_supported():
                set_default_mode(Path(temporary))
            os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


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
    """Leaves out what a file system does not have: permissions, or a flush of directories."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def sweep(directory: Path) -> None:
    """Removes the temporary files that killed processes left in a directory; one that is being written stays."""
    for leftover in directory.glob(".*.tmp"):
        try:
            with leftover.open("r+b") as file:
                if try_lock(file.fileno()):  # else it will get its name
                    leftover.unlink()
        except FileNotFoundError:  # it has got its name meanwhile
            continue


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
    write_atomically(path, _json(value))


def read_json(path: Path) -> Any:
    """Reads what `write_json` wrote.

    Raises:
        DamagedError: it is no JSON, or not written in that way: a flipped bit may leave a number as it is.
        FileNotFoundError: there is none.
    """
    try:
        text = path.read_bytes().decode()
        value = json.loads(text)
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
    """Reads what `write_record` wrote, without the SHA-256; whichever bit of the file is another, it is refused.

    Raises:
        DamagedError: it is no JSON, has no SHA-256, or another content than was written.
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
    """Gives a file the permissions of an ordinary new one: temporary files are made for their owner alone."""
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _sync_directory(directory: Path) -> None:
    with where_supported():
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
