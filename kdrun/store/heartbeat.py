"""Signs of life of the process that has a run, for file systems whose locks do not reach other hosts.

The process touches the run's lock file; its age is that against a new file beside it. Both times are set by the file
system, so hosts whose clocks differ agree.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from kdrun.files import open_regular

BEAT_SECONDS = 20.0

DEAD_SECONDS = 120.0
"""Without a beat for so long a process is dead. Clients of NFS may see times that are 60 s old."""


@contextlib.contextmanager
def beating(descriptor: int) -> Iterator[None]:
    """In this context a thread touches an open file."""
    ended = threading.Event()
    threading.Thread(target=_beat, args=(descriptor, ended), name="kdrun-heartbeat", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _beat(descriptor: int, ended: threading.Event) -> None:
    while not ended.is_set():
        touch(descriptor)
        ended.wait(BEAT_SECONDS)


def touch(descriptor: int) -> None:
    """Sets the time of an open file to now, by the file system's clock; without effect where that is refused."""
    with contextlib.suppress(OSError):
        os.utime(descriptor)


def is_beating(path: Path) -> bool:
    """Whether a file was touched within the last `DEAD_SECONDS`."""
    with open_regular(path) as file:  # opening it renews what a client of NFS has cached
        beat = os.fstat(file.fileno()).st_mtime
    return abs(_now(path.parent) - beat) < DEAD_SECONDS


def _now(directory: Path) -> float:
    """The time by the clock of a directory's file system; by this host's where nothing can be written."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def renew(directory: Path) -> None:
    """Lets a client of NFS notice what other hosts have written in a directory: a change of its own shows theirs."""
    _now(directory)
