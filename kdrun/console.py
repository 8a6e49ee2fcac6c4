"""stdout and stderr that cannot end a run: a terminal that is gone, a full disk, a closed pipe, an ASCII console."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO

from kdrun.redaction import redacted

ASCII = {"±": "+-", "²": "^2", "Δ": "d", "←": "<-", "→": "->", "·": "*", "≥": ">=", "≤": "<=", "–": "-", "…": "..."}
"""Replacements for characters that an ASCII console lacks; accents of others are dropped."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """In this context no write to `sys.stdout` or `sys.stderr` raises.

    The first failure of each is one line in the runs' logs; later writes to it are dropped.
    """
    _open_missing()
    before = sys.stdout, sys.stderr
    sys.stdout = GuardedStream(before[0], "stdout")
    sys.stderr = GuardedStream(before[1], "stderr")
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def troubles() -> list[str]:
    """Failures of the guarded streams so far, for a log that is opened later."""
    return [text for stream in (sys.stdout, sys.stderr) if (text := getattr(stream, "trouble", None))]


def _open_missing() -> None:
    """Opens the null device for a stream that was closed at the start: the next file would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 (stays open)


class GuardedStream:
    """A text stream in front of another; see `guarded`.

    Args:
        stream: the stream behind it.
        name: its name, for the log.

    Attributes:
        trouble: why nothing more is written; None before a failure.
    """

    trouble: str | None = None

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        shown = redacted(text)
        try:
            self._attempt(self._stream.write, shown)
        except UnicodeEncodeError as error:
            self._attempt(self._stream.write, as_encodable(shown, error.encoding))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def isatty(self) -> bool:
        return self.trouble is None and not self._stream.closed and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, action: Any, *arguments: str) -> None:
        if self.trouble is not None:
            return
        try:
            action(*arguments)
        except UnicodeEncodeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        """Drops later writes; the file below becomes the null device, for Python's last flush."""
        self.trouble = f"{self._name} cannot be written ({type(error).__name__}: {error}): its messages are here only"
        with contextlib.suppress(OSError, ValueError):  # it has no file, or a closed one
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        logging.getLogger("kdrun").warning("%s", self.trouble, extra={"file_only": True})


def as_encodable(text: str, encoding: str) -> str:
    """A text without the characters that an encoding lacks: `ASCII` or the base letter instead, or a question mark."""

    def encodable(character: str) -> str:
        for candidate in (character, ASCII.get(character), unicodedata.normalize("NFKD", character)[:1]):
            with contextlib.suppress(UnicodeEncodeError):
                if candidate is not None:
                    candidate.encode(encoding)
                    return candidate
        return "?"

    return "".join(map(encodable, text))
