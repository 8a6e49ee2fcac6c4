"""Rows, their goals, and the three forms in which figures are written."""

import struct

import pytest
import torch

from benchmarks.measurement import Measurement
from benchmarks.report import chart, in_unit, record, table
from benchmarks.rows import ROWS

CPU = torch.device("cpu")
FACTS = {"cpu": "Some CPU", "cores": 2, "threads": 2, "amx": True, "avx512_bf16": True, "torch": "2.15", "gpu": None}


def measured(ratio: float, **changes: object) -> Measurement:
    return Measurement(ratio, 0.9 * ratio, 1.2 * ratio, "10 img/s", "30 img/s", **changes)


def test_the_goals_are_those_of_the_issue():
    goals = {name: row.goals(CPU) for name, row in ROWS.items()}
    assert goals == {
        "input_pipeline": (10, 12),
        "teacher_forward": (4.5, 5.9),
        "kd_step_mobilenetv2": (2.5, 3.5),
        "kd_step_resnet18": (3.5, 4.5),
        "sweep_mobilenetv2": (3.3, 5),
        "sweep_resnet18": (4.3, 6),
        "soft_labels": (50, 68),
        "peak_memory": (60_000 * 3072 + 200_000_000, None),
    }
    assert ROWS["kd_step_mobilenetv2"].goals(torch.device("cuda")) == (5, 8)
    assert ROWS["input_pipeline"].goals(torch.device("cuda")) == (10, 12), "it is measured on the CPU"


@pytest.mark.parametrize(
    ("name", "ratio", "passed"),
    [
        ("kd_step_resnet18", 3.6, True),
        ("kd_step_resnet18", 3.4, False),
        ("peak_memory", 300e6, True),
        ("peak_memory", 400e6, False),
    ],
)
def test_a_record_says_whether_its_gate_is_reached(name, ratio, passed):
    found = record(name, measured(ratio), CPU)
    assert {key: found[key] for key in ("name", "ratio", "low", "high", "gate", "aim", "passed")} == {
        "name": name,
        "ratio": ratio,
        "low": 0.9 * ratio,
        "high": 1.2 * ratio,
        "gate": ROWS[name].gate,
        "aim": ROWS[name].aim,
        "passed": passed,
    }


def test_the_table_shows_figures_in_their_units():
    records = [
        record("kd_step_resnet18", measured(3.4, reference_first=1.04, kdrun_first=42.0, remark="bf16"), CPU),
        record("soft_labels", measured(60.4), CPU),
        record("peak_memory", measured(300e6), CPU),
    ]
    lines = table(records).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells[0][2:] == [
        *("3.40x", "3.06x - 4.08x", "3.50x", "MISSED", "4.50x", "10 img/s", "30 img/s", "1.0 / 42.0", "bf16")
    ]
    assert cells[1][2:7] == ["60x", "54x - 72x", "50x", "reached", "68x"]
    assert cells[2][2:7] == ["300 MB", "270 MB - 360 MB", "384 MB", "reached", ""]
    assert [in_unit(value, "x") for value in (1.234, 12.34, 56.7)] == ["1.23x", "12.3x", "57x"]


def test_the_chart_is_a_picture_of_the_rows_in_ratios(tmp_path):
    sizes = []
    for names in (["soft_labels"], ["soft_labels", "kd_step_resnet18", "peak_memory"]):
        path = tmp_path / "chart.png"
        chart(path, [record(name, measured(60.0), CPU) for name in names], FACTS)
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        sizes.append(struct.unpack(">II", content[16:24]))
    width, heights = sizes[0][0], [height for _, height in sizes]
    assert width == sizes[1][0]
    assert heights[1] - heights[0] == pytest.approx(0.45 * 150, abs=1), "one bar more, as memory is in bytes"
