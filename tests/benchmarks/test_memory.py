"""Memory is what a run takes more than its networks do alone."""

import pytest
import torch

from benchmarks import memory

CPU = torch.device("cpu")


def test_memory_is_the_difference_of_two_processes(monkeypatch):
    peaks = {"run": iter([900, 1000, 950]), "bare": iter([500, 500, 510])}
    monkeypatch.setattr(memory, "_peak_of_process", lambda what, device: next(peaks[what]))
    found = memory.peak_memory(CPU, lambda what: None)
    assert (found.low, found.ratio, found.high) == (400, 440, 500)


@pytest.mark.slow
def test_a_process_tells_its_own_peak_and_not_that_of_its_parent():
    """On Linux a child's `ru_maxrss` begins at what its parent took when it was started."""
    before = memory._peak_of_process("bare", CPU)
    ballast = torch.ones(750_000_000, dtype=torch.uint8)
    after = memory._peak_of_process("bare", CPU)
    assert len(ballast) > 2 * abs(after - before)
    assert 100e6 < before < 3e9
