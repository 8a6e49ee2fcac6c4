"""Interleaved timing: blocks of the reference and of kdrun alternate, so that disturbances affect both."""

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
        run: computes one block.
        units: steps, images or calls per block.
        device: where it computes.

    Attributes:
        first_seconds: seconds of the first block, including compilation and start of workers; None before it. No
            other time includes it.
    """

    def __init__(self, run: Callable[[], object], *, units: int, device: torch.device) -> None:
        self._run = run
        self._units = units
        self._device = device
        self.first_seconds: float | None = None

    def warm_up(self) -> float:
        """Runs the first block unless it has run; returns `first_seconds`."""
        if self.first_seconds is None:
            self.first_seconds = self._block()
        return self.first_seconds

    def seconds(self) -> float:
        """Runs a block after the first one; returns seconds per unit."""
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
    """Times of two sides, measured alternately, in pairs.

    Attributes:
        reference: seconds per unit.
        kdrun: likewise.
    """

    reference: tuple[float, ...]
    kdrun: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Speed-up of kdrun, pair by pair."""
        return [reference / kdrun for reference, kdrun in zip(self.reference, self.kdrun, strict=True)]


def alternate(reference: Side, kdrun: Side, *, pairs: int, progress: Callable[[str], None]) -> Comparison:
    """Times both alternately, after a first block of each.

    Args:
        reference: one side.
        kdrun: the other.
        pairs: number of pairs; fewer, at least three, if they take more than a minute.
        progress: receives progress lines.
    """
    progress(f"first blocks, then {pairs} pairs")
    reference.warm_up()
    kdrun.warm_up()
    times = []
    started = reported = time.monotonic()
    for pair in range(1, pairs + 1):
        times.append((reference.seconds(), kdrun.seconds()))
        now = time.monotonic()
        if now - reported > SECONDS_BETWEEN_LINES:
            progress(f"pair {pair} of {pairs} done")
            reported = now
        if pair >= MIN_PAIRS and now - started > MAX_SECONDS:
            break
    return Comparison(tuple(time for time, _ in times), tuple(time for _, time in times))


def fastest(sides: Mapping[str, Side], *, repeats: int = 3) -> str:
    """The name of the side with the lowest median over a few alternating blocks."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            times[name].append(side.seconds())
    return min(times, key=lambda name: statistics.median(times[name]))


@contextlib.contextmanager
def num_threads(number: int) -> Iterator[None]:
    """Sets the number of CPU threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
