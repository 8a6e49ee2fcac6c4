"""Interleaved timing: blocks of all sides alternate, so that disturbances affect each of them."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from kdrun.training.precision import synchronize

MIN_ROUNDS = 3
MAX_SECONDS = 75

Progress = Callable[[str], None]


class UnavailableError(Exception):
    """A side that cannot be timed on this machine; its message is the reason."""


@dataclass(frozen=True)
class Side:
    """Work that is timed in blocks.

    Attributes:
        block: computes one block.
        units: steps, images or calls per block.
    """

    block: Callable[[], object]
    units: int


@dataclass(frozen=True)
class Ratio:
    """The speed-up of one side over another: median, lowest and highest of the rounds."""

    median: float
    low: float
    high: float


@dataclass
class Times:
    """Times of several sides.

    Attributes:
        seconds: per unit, by side and round.
        first: seconds of each side's first block (start of workers, compilation), which no other figure includes.
        skipped: reasons, by side.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def of(self, side: str) -> float:
        """A side's seconds per unit: the median of its rounds."""
        return statistics.median(self.seconds[side])

    def ratio(self, reference: str, kdrun: str) -> Ratio:
        """The reference's seconds over kdrun's, round by round."""
        pairs = zip(self.seconds[reference], self.seconds[kdrun], strict=True)
        ratios = [theirs / ours for theirs, ours in pairs]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))

    @contextlib.contextmanager
    def skipping(self, side: str) -> Iterator[None]:
        """A context in which `UnavailableError` leaves a side out, with what was measured of it."""
        try:
            yield
        except UnavailableError as error:
            self.skipped[side] = str(error)
            self.seconds.pop(side, None)
            self.first.pop(side, None)


@dataclass(frozen=True)
class Measurement:
    """What a row measured.

    Attributes:
        times: of the references and of kdrun; kdrun's sides are named by their precision.
        images: per unit of the times.
        remark: conditions of the measurement.
        roof: seconds per unit in bf16 at the limit of the device; None if unknown.
    """

    times: Times
    images: int
    remark: str = ""
    roof: float | None = None


def seconds_of(block: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call."""
    synchronize(device)
    started = time.perf_counter()
    block()
    synchronize(device)
    return time.perf_counter() - started


def alternate(sides: Mapping[str, Side], device: torch.device, *, rounds: int, progress: Progress) -> Times:
    """Times all sides in turn, after a first block of each. A side that raises `UnavailableError` is left out.

    Args:
        sides: by name.
        device: where they compute.
        rounds: number of blocks of each; fewer, at least three, if they take more than `MAX_SECONDS`.
        progress: receives progress lines.
    """
    times = Times()
    started = time.monotonic()
    for done in range(rounds + 1):
        progress(f"round {done} of {rounds}" if done else "first blocks")
        for name, side in sides.items():
            if name in times.skipped:
                continue
            with times.skipping(name):
                seconds = seconds_of(side.block, device)
                if done:
                    times.seconds.setdefault(name, []).append(seconds / side.units)
                else:
                    times.first[name] = seconds
        if done == 0:
            started = time.monotonic()
        elif done >= MIN_ROUNDS and time.monotonic() - started > MAX_SECONDS:
            break
    return times


@contextlib.contextmanager
def num_threads(number: int) -> Iterator[None]:
    """Sets the number of CPU threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
