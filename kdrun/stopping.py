"""Stops at a signal: at once, or, where work defers it, at the next `check`."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals of schedulers and users; Slurm's --signal is SIGUSR1 by convention."""

GRACE_SECONDS = 4.0
"""The longest that work can defer a signal."""


class Stopped(BaseException):
    """A signal asked the process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def stop_behind(error: BaseException | None) -> Stopped | None:
    """The stop that an error is, or that caused it: a library may fail while it cleans up after one."""
    while error is not None and not isinstance(error, Stopped):
        error = error.__cause__ or error.__context__
    return error


class DeviceLost(BaseException):
    """The device of all runs is lost: not a run's own failure, so handlers of those must not catch it."""


_deferring = False
_shielding = False
_requested: int | None = None
_stopped_at: float | None = None


def listen() -> None:
    """From now on the signals raise `Stopped` in the main thread."""
    _forget()
    for number in SIGNALS:
        signal.signal(number, _handle)
    signal.signal(signal.SIGALRM, _overdue)


def ignore() -> None:
    """From now on the signals have no effect: the process is about to end with an exit code of its own."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """In this context a signal waits for the next `check`, at most `GRACE_SECONDS`; a second one does not wait."""
    global _deferring
    _deferring = True
    try:
        yield
        check()
    finally:
        _deferring = False


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """In this context, the writing of a small file, all signals wait for the next `check`."""
    global _shielding
    _shielding = True
    try:
        yield
    finally:
        _shielding = False


def check() -> None:
    """Raises `Stopped` if a signal has come; again, too: what was raised in a library's callback may be lost."""
    if _requested is not None:
        _stop()


def is_requested() -> bool:
    """Whether a signal has come."""
    return _requested is not None


def _handle(number: int, _frame: object) -> None:
    global _requested
    if _stopped_at is not None and time.monotonic() < _stopped_at + GRACE_SECONDS:
        return  # it is stopping: torchrun repeats to its ranks what Slurm sends to all processes of a job
    is_first = _requested is None
    _requested = number
    if not _shielding and not (_deferring and is_first):
        _stop()
    if is_first:
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)


def _overdue(_number: int, _frame: object) -> None:
    check()


def _stop() -> None:
    global _stopped_at
    assert _requested is not None
    _stopped_at = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise Stopped(_requested)


def _forget() -> None:
    global _requested, _stopped_at
    _requested, _stopped_at = None, None
    signal.setitimer(signal.ITIMER_REAL, 0)
