"""The figures of docs/scaling.md are those that the calculation prints; its counts are those of closed forms."""

from pathlib import Path

import pytest

from benchmarks import scaling

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def test_the_page_has_the_figures_of_the_calculation(capsys):
    scaling.main()
    assert f"```text\n{capsys.readouterr().out}```\n" in PAGE.read_text()


def test_operations_are_those_of_the_networks():
    """Twice the MACs forward, three times that in training but for the gradient of the pixels (the stem's MACs)."""
    cost = scaling.step_cost(*scaling.TASK, 8)
    stem = 7 * 7 * 3 * 64 * 112 * 112
    assert cost.flops == pytest.approx(6 * 1_814_073_344 + 2 * 3_663_761_408 - 2 * stem, rel=1e-3)
    assert cost.seconds >= max(cost.flops / scaling.FLOPS, cost.bytes / scaling.BANDWIDTH)
    assert cost.norms == 20


def test_a_step_is_as_long_as_its_slowest_part():
    cost = scaling.Cost(flops=0, bytes=0, seconds=1e-3, launches=100, norms=0)
    one = scaling.setting(1, 1000, cost, gradient_bytes=1e9)
    assert one.compute == pytest.approx(1.0 / scaling.EFFICIENCY)
    assert (one.reduce, one.bottleneck) == (0.0, "compute")
    assert scaling.setting(64, 64, cost, 1e9).reduce == pytest.approx(2 * 63 / 64 * 1e9 / scaling.NETWORK)
    assert scaling.setting(1, 1, scaling.Cost(0, 0, 0.0, 100, 0), 0).compute == 100 * scaling.LAUNCH_SECONDS
