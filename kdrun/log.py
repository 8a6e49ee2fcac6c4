"""The log: plain messages on stdout and stderr, and with times in a run's `kdrun.log`."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from kdrun.console import troubles
from kdrun.escaping import printable_lines
from kdrun.redaction import redacted

log = logging.getLogger("kdrun")


class _Console(logging.Handler):
    """Plain messages on stdout, errors on stderr, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "file_only", False):
            return
        stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        tqdm.write(printable_lines(record.getMessage()), file=stream)
        stream.flush()


class _LogFormatter(logging.Formatter):
    """With times; control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(redacted(super().format(record)))


class _RunLog(logging.FileHandler):
    """A run's `kdrun.log`; a failed write (the disk is full) is one warning, and fails no run."""

    _reported = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not self._reported:
            self._reported = True
            log.warning("%s is not complete: %s", self.baseFilename, sys.exc_info()[1])


def set_up_console() -> None:
    """Sends the log to stdout; called once by the command line."""
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers[:] = [_Console()]


@contextlib.contextmanager
def log_file(path: Path, run_id: str) -> Iterator[None]:
    """Also appends the log, with times, to a file, without the messages of other runs."""
    handler = _RunLog(path, encoding="utf-8")
    handler.addFilter(lambda record: getattr(record, "run", run_id) == run_id)
    handler.setFormatter(_LogFormatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    for trouble in troubles():
        log.warning("%s", trouble, extra={"run": run_id, "file_only": True})
    try:
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # of an earlier failed write
            handler.close()


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 epoch`, `20 epochs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
