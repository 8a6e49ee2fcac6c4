"""What the clock says becomes the right ratios; the first block never counts."""

import pytest
import torch

from benchmarks import timing
from benchmarks.measurement import compared
from benchmarks.timing import Comparison, Side, alternate, fastest, num_threads

CPU = torch.device("cpu")


class Clock:
    """A clock that only work moves, and a record of what worked."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        self.worked: list[str] = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def side(self, name: str, seconds: list[float], units: int = 1) -> Side:
        """Work whose blocks take these seconds."""
        left = iter(seconds)

        def work() -> None:
            self.worked.append(name)
            self.now += next(left)

        return Side(work, units=units, device=CPU)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def test_pairs_are_interleaved_and_the_first_blocks_stand_apart(clock):
    reference, kdrun = clock.side("a", [90, 8, 12, 40], units=2), clock.side("b", [70, 2, 2, 4], units=1)
    times = alternate(reference, kdrun, pairs=3, progress=lambda what: None)
    assert clock.worked == ["a", "b"] * 4
    assert times == Comparison(reference=(4, 6, 20), kdrun=(2, 2, 4))
    assert (reference.warm_up(), kdrun.warm_up()) == (90, 70)
    assert clock.worked == ["a", "b"] * 4, "warmed up once"


def test_a_figure_is_the_median_of_the_ratios():
    times = Comparison(reference=(4.0, 6.0, 20.0), kdrun=(2.0, 2.0, 4.0))
    found = compared(times, images=64, first=(9.0, 7.0), remark="bf16", roof=0.5)
    assert (found.ratio, found.low, found.high) == (3, 2, 5)
    assert (found.reference, found.kdrun) == ("11 img/s", "32 img/s")
    assert (found.reference_first, found.kdrun_first, found.remark) == (9, 7, "bf16")
    assert found.percent_of_roof == 25
    # Not the ratio of the medians, which need not have been measured beside each other.
    assert compared(Comparison((1.0, 10.0, 4.0), (1.0, 8.0, 1.0)), images=None).ratio == 1.25


def test_fastest_goes_by_the_median_and_not_by_the_first_block(clock):
    sides = {"slow": clock.side("slow", [0, 3, 3, 3]), "fast": clock.side("fast", [99, 2, 50, 2])}
    assert fastest(sides) == "fast"


def test_a_slow_machine_gets_fewer_pairs(clock, monkeypatch):
    monkeypatch.setattr(timing.time, "monotonic", lambda: clock.now)
    said = []
    times = alternate(clock.side("a", [1] + [50] * 9), clock.side("b", [1] + [20] * 9), pairs=9, progress=said.append)
    assert len(times.ratios) == timing.MIN_PAIRS
    assert said == ["first blocks, then 9 pairs", *(f"pair {i} of 9 done" for i in (1, 2, 3))]


def test_threads_are_as_before_even_after_a_failure():
    torch.set_num_threads(2)
    seen = []

    def fail() -> None:
        seen.append(torch.get_num_threads())
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), num_threads(1):
        fail()
    assert seen == [1]
    assert torch.get_num_threads() == 2
