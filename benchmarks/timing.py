"""Interleaved timing: a block of the reference, a block of kdrun, and again, so that what disturbs meets both."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from kdrun.training.precision import synchronize

SECONDS_BETWEEN_LINES = 5
MIN_PAIRS = 3
MAX_SECONDS = 60


class Side:
    """Work that is timed in blocks.

    Args:
        run: does one block.
        units: how many steps, images or calls a block is.
        device: where the work is done.

    Attributes:
        first_seconds: what the first block took, compilation and start of workers included; None before it. It is
            never part of another time.
    """

    def __init__(self, run: Callable[[], object], *, units: int, device: torch.device) -> None:
        self._run = run
        self._units = units
        self._device = device
        self.first_seconds: float | None = None

    def warm_up(self) -> float:
        """Does the first block where it has not been done; returns `first_seconds`."""
        if self.first_seconds is None:
            self.first_seconds = self._block()
        return self.first_seconds

    def seconds(self) -> float:
        """Does a block, after the first; returns seconds per unit."""
        self.warm_up()
        return self._block() / self._units

    def _block(self) -> float:
        synchronize(self._device)
        started = time.perf_counter()
        self._run()
        synchronize(self._device)
        return time.perf_counter() - started


@dataclass(frozen=True)
class Comparison:
    """Times of two sides, measured in turn: each pair stands side by side.

    Attributes:
        reference: seconds per unit.
        kdrun: likewise.
    """

    reference: tuple[float, ...]
    kdrun: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """How many times faster kdrun was, pair by pair."""
        return [reference / kdrun for reference, kdrun in zip(self.reference, self.kdrun, strict=True)]


def alternate(reference: Side, kdrun: Side, *, pairs: int, say: Callable[[str], None]) -> Comparison:
    """Times both in turn, after a first block of each.

    Args:
        reference: the one side.
        kdrun: the other.
        pairs: how often; less often, but three times, on a machine that takes more than a minute for it.
        say: is told how far it is.
    """
    say(f"first blocks, then {pairs} pairs")
    reference.warm_up()
    kdrun.warm_up()
    times = []
    started = told = time.monotonic()
    for pair in range(1, pairs + 1):
        times.append((reference.seconds(), kdrun.seconds()))
        now = time.monotonic()
        if now - told > SECONDS_BETWEEN_LINES:
            say(f"pair {pair} of {pairs} done")
            told = now
        if pair >= MIN_PAIRS and now - started > MAX_SECONDS:
            break
    return Comparison(tuple(time for time, _ in times), tuple(time for _, time in times))


def fastest(sides: Mapping[str, Side], *, repeats: int = 3) -> str:
    """The name of the side with the lowest median of a few blocks, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            times[name].append(side.seconds())
    return min(times, key=lambda name: statistics.median(times[name]))


@contextlib.contextmanager
def num_threads(number: int) -> Iterator[None]:
    """Computes with this many CPU threads, then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
