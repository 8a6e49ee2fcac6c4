"""A signal is acted upon at once, at the next check, or when its time is over; a second one at once."""

import contextlib
import signal
import time

import pytest

from kdrun import stopping
from kdrun.stopping import Stopped, check, deferred, listen, stop_behind


@pytest.fixture(autouse=True)
def listening():
    before = {number: signal.getsignal(number) for number in (*stopping.SIGNALS, signal.SIGALRM)}
    listen()
    yield
    listen()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_outside_of_deferring_work_it_stops_at_once(number):
    with pytest.raises(Stopped) as stopped:
        signal.raise_signal(number)
    assert stopped.value.number == number


def test_a_stop_that_a_library_has_lost_is_raised_by_the_next_check():
    """As Python does with exceptions in the callback of a weak reference, of which torch's compiler has many."""
    with contextlib.suppress(Stopped):
        terminate()
    with pytest.raises(Stopped):
        check()


def work(*actions) -> list[int]:
    """Does these one after the other, deferring; returns which were done, and that it was stopped."""
    done = []
    with pytest.raises(Stopped):
        _do(actions, done)
    return done


def _do(actions, done: list[int]) -> None:
    with deferred():
        for i, action in enumerate(actions):
            action()
            done.append(i)


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def test_deferring_work_goes_on_to_the_next_check():
    assert work(terminate, lambda: None, check, lambda: None) == [0, 1]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_deferring_work_that_ends_without_a_check_stops_at_its_end():
    assert work(terminate, lambda: None) == [0, 1]


def test_a_second_signal_does_not_wait():
    assert work(terminate, lambda: None, lambda: signal.raise_signal(signal.SIGINT), lambda: None) == [0, 1]


def test_signals_after_a_stop_have_no_effect_while_it_has_time(monkeypatch):
    """What Slurm sends to all processes of a job, torchrun sends to its ranks again."""
    with pytest.raises(Stopped) as stopped:
        terminate()
    signal.raise_signal(signal.SIGINT)
    assert stopped.value.number == signal.SIGTERM
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 0.0)
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGINT)


def test_what_is_shielded_is_done_whatever_signals_come():
    with stopping.shielded():
        terminate()
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(Stopped):
        check()


def test_work_that_takes_too_long_is_stopped_where_it_is(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 0.05)
    started = time.monotonic()
    assert work(terminate, lambda: time.sleep(5)) == [0]
    assert time.monotonic() - started < 2


def test_a_stop_is_found_behind_what_a_library_raises_while_it_cleans_up():
    """As OmegaConf does where a signal comes in the middle of a composition."""
    with pytest.raises(AttributeError) as raised:
        _clean_up_badly()
    assert stop_behind(raised.value).number == signal.SIGTERM
    with pytest.raises(ValueError, match="no stop") as raised:
        raise ValueError("no stop") from KeyError()
    assert stop_behind(raised.value) is None


def _clean_up_badly() -> None:
    try:
        terminate()
    finally:
        None.invalidate()
