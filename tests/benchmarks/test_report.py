"""Rows, their gates, and the three forms in which figures are written."""

import struct

import pytest
import torch

from benchmarks.report import chart, heading, lines, record, times_as_fast
from benchmarks.rows import ROWS
from benchmarks.timing import Measurement, Times

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FACTS = {
    "date": "2026-11-29",
    "cpu": "Some CPU",
    "cores": 2,
    "threads": 2,
    "amx": True,
    "avx512_bf16": True,
    "torch": "2.15",
    "gpu": None,
    "torchdistill": "1.1.5",
}


def measured(**changes) -> Measurement:
    """A step of 64 images: 2 s released, 1 s with two lines, no torchdistill; kdrun 1 s and 0.5 s."""
    seconds = {"released": [2.0, 2.0, 3.0], "two_lines": [1.0] * 3, "fp32": [1.0, 0.8, 1.0], "bf16": [0.5] * 3}
    times = Times(seconds, {"released": 5.0, "bf16": 7.0}, {"torchdistill": "not installed"})
    return Measurement(times, images=64, remark="2 loader workers", **changes)


def test_the_gates_are_those_of_the_issue():
    def step(bf16: float) -> dict:
        return {("released", "fp32"): 1.15, ("two_lines", "bf16"): bf16}

    sweep, views = {("two_lines", "bf16"): 2.5}, {("released", "fp32"): 10}
    assert {name: row.gates(CPU) for name, row in ROWS.items()} == {
        "kd_step_mobilenetv2": step(1.6),
        "kd_step_resnet18": step(1.4),
        "kd_step_resnet20": {},
        "sweep_mobilenetv2": sweep,
        "sweep_resnet18": sweep,
        "input_pipeline": views,
        "soft_labels": {("released", "fp32"): 50},
    }
    assert ROWS["kd_step_mobilenetv2"].gates(CUDA) == {("released", "bf16"): 5}
    assert ROWS["sweep_resnet18"].gates(CUDA) == {("released", "bf16"): 10}
    assert ROWS["input_pipeline"].gates(CUDA) == views, "it is measured on the CPU"


def test_a_record_has_every_reference_in_both_precisions():
    found = record("kd_step_resnet18", measured(roof=0.1), CPU)
    assert found["skipped"] == {"torchdistill": "not installed"}
    assert found["percent_of_roof"] == 20
    assert found["first_seconds"] == {"released": 5, "bf16": 7}
    figures = {
        (one["reference"], one["kdrun"]): (one["ratio"], one["low"], one["high"], one["gate"], one["passed"])
        for one in found["comparisons"]
    }
    assert figures == {
        ("released", "fp32"): (2.5, 2.0, 3.0, 1.15, True),
        ("released", "bf16"): (4.0, 4.0, 6.0, None, None),
        ("two_lines", "fp32"): (1.0, 1.0, 1.25, None, None),
        ("two_lines", "bf16"): (2.0, 2.0, 2.0, 1.4, True),
    }
    assert found["comparisons"][0]["reference_seconds"] == 2
    assert found["comparisons"][0]["kdrun_seconds"] == 1
    assert not record("sweep_resnet18", measured(), CPU)["comparisons"][3]["passed"], "2 is below 2.5"


def test_the_lines_fit_the_heading_and_show_rates_and_ratios():
    entry = record("kd_step_resnet18", measured(roof=0.1), CPU)
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (heading("1.1.5") + "\n" + lines(entry)).splitlines()
    ]
    assert {len(cells) for cells in table} == {8}
    assert table[0][4] == "torchdistill 1.1.5"
    assert table[2][:6] == ["kd_step_resnet18", "", "32 img/s", "64 img/s", "skipped", ""]
    assert "20 % of the roofline" in table[2][7]
    assert "torchdistill skipped: not installed" in table[2][7]
    assert table[3][1:7] == [
        *("fp32: 64 img/s", "2.50x (2.00 - 3.00)", "1.00x (1.00 - 1.25)", "", "", "released 1.15x reached")
    ]
    assert table[4][1:3] == ["bf16: 128 img/s", "4.00x (4.00 - 6.00)"]
    assert [times_as_fast(ratio) for ratio in (1.234, 12.34, 56.7)] == ["1.23x", "12.3x", "57x"]


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["soft_labels"], 2),
        (["soft_labels", "kd_step_resnet18"], 2),
        (["kd_step_mobilenetv2", "kd_step_resnet18"], 4),
    ],
)
def test_the_chart_has_a_place_for_each_reference_and_parts_only_alone(tmp_path, names, places):
    path = tmp_path / "chart.png"
    chart(path, [record(name, measured(), CPU) for name in names], FACTS)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    _, height = struct.unpack(">II", content[16:24])
    assert height == pytest.approx((1.2 + 0.45 * places) * 150, abs=1)
