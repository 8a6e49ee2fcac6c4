"""Stops at a signal: at once, or, where work defers it, at the next `check`."""

from __future__ import annotations

import contextlib
import signal
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
_requested: int | None = None


def listen() -> None:
    """From now on the signals raise `Stopped` in the main thread."""
    _forget()
    for number in SIGNALS:
        signal.signal(number, _handle)
    signal.signal(signal.SIGALRM, _overdue)


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


def check() -> None:
    """Raises `Stopped` if a signal has come; again, too: what was raised in a library's callback may be lost."""
    if _requested is not None:
        _stop()


def is_requested() -> bool:
    """Whether a signal has come."""
    return _requested is not None


def _handle(number: int, _frame: object) -> None:
    global _requested
    if not _deferring or _requested is not None:
        _requested = number
        _stop()
    _requested = number
    signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)


def _overdue(_number: int, _frame: object) -> None:
    check()


def _stop() -> None:
    assert _requested is not None
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise Stopped(_requested)


def _forget() -> None:
    global _requested
    _requested = None
    signal.setitimer(signal.ITIMER_REAL, 0)
