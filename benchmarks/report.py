"""The benchmark's figures as a table, as JSON and as a bar chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import in_words
from benchmarks.measurement import Measurement
from benchmarks.rows import RATIO, ROWS
from kdrun.analysis.plots import figure, style
from kdrun.escaping import aligned

COLUMNS = ("row", "what", "ratio", "low - high", "gate", "", "aim", "reference", "kdrun", "first s", "remark")


def record(name: str, measured: Measurement, device: torch.device) -> dict[str, Any]:
    """A row of the JSON: `name, ratio, low, high, gate, aim` and further keys.

    `ratio`, `low`, `high`, `gate` and `aim` are in `unit`; a gate in bytes is an upper bound.
    """
    row = ROWS[name]
    gate, aim = row.goals(device)
    return {
        "name": name,
        "ratio": measured.ratio,
        "low": measured.low,
        "high": measured.high,
        "gate": gate,
        "aim": aim,
        "unit": row.unit,
        "passed": None if gate is None else row.passes(measured, gate),
        "reference": measured.reference,
        "kdrun": measured.kdrun,
        "reference_first_seconds": measured.reference_first,
        "kdrun_first_seconds": measured.kdrun_first,
        "percent_of_roof": measured.percent_of_roof,
        "remark": measured.remark,
    }


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records as a Markdown table."""
    return aligned(COLUMNS, [_cells(entry) for entry in records], left=2)


def _cells(entry: Mapping[str, Any]) -> list[str]:
    firsts = [entry["reference_first_seconds"], entry["kdrun_first_seconds"]]
    remark = entry["remark"]
    if entry["percent_of_roof"] is not None:
        remark += f"; {entry['percent_of_roof']:.0f} % of roofline"
    return [
        entry["name"],
        ROWS[entry["name"]].title,
        in_unit(entry["ratio"], entry["unit"]),
        f"{in_unit(entry['low'], entry['unit'])} - {in_unit(entry['high'], entry['unit'])}",
        in_unit(entry["gate"], entry["unit"]),
        {None: "", True: "reached", False: "MISSED"}[entry["passed"]],
        in_unit(entry["aim"], entry["unit"]),
        entry["reference"],
        entry["kdrun"],
        "" if None in firsts else " / ".join(f"{seconds:.1f}" for seconds in firsts),
        remark,
    ]


def in_unit(value: float | None, unit: str) -> str:
    """A figure as text; empty for None."""
    if value is None:
        return ""
    if unit != RATIO:
        return f"{value / 1e6:.0f} MB"
    return f"{value:.0f}x" if value >= 20 else f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def chart(path: Path, records: Sequence[Mapping[str, Any]], facts: dict[str, Any]) -> None:
    """Ratios as bars from 1 with their spread, gate and aim marked, as PNG; rows in bytes are left out."""
    shown = [entry for entry in records if entry["unit"] == RATIO][::-1]
    with figure(path, 7.5, 1.6 + 0.45 * len(shown)) as drawn:
        axes = drawn.add_subplot()
        style(axes)
        places = range(len(shown))
        ratios = [entry["ratio"] for entry in shown]
        spread = [
            [entry["ratio"] - entry["low"] for entry in shown],
            [entry["high"] - entry["ratio"] for entry in shown],
        ]
        axes.barh(places, [ratio - 1 for ratio in ratios], left=1, height=0.6, color="tab:blue", alpha=0.7)
        axes.errorbar(ratios, places, xerr=spread, fmt="none", ecolor="0.2", capsize=3)
        for goal, colour, width in (("gate", "tab:red", 2.5), ("aim", "tab:green", 1.5)):
            marked = [
                (place, entry[goal]) for place, entry in zip(places, shown, strict=True) if entry[goal] is not None
            ]
            lows, highs = [place - 0.4 for place, _ in marked], [place + 0.4 for place, _ in marked]
            axes.vlines([value for _, value in marked], lows, highs, colors=colour, linewidths=width, label=goal)
        axes.set_xscale("log")
        ticks = [1, 2, 3, 5, 10, 20, 50, 100]
        axes.set_xticks(ticks, [f"{tick}x" for tick in ticks])
        axes.minorticks_off()
        axes.set_yticks(list(places), [f"{entry['name']}  {in_unit(entry['ratio'], RATIO)}" for entry in shown])
        axes.set(xlabel="times faster than the reference: median, lowest and highest of the pairs")
        axes.set_title(in_words(facts), fontsize="x-small")
        axes.legend(frameon=False, fontsize="small")
