"""The benchmark's figures as lines of a table, as JSON and as a bar chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import in_words
from benchmarks.rows import ROWS
from benchmarks.steps import PRECISIONS
from benchmarks.timing import Measurement
from kdrun.analysis.plots import figure, legend_below, style

REFERENCES = {
    "released": "released loop",
    "two_lines": "released + two lines",
    "torchdistill": "torchdistill",
    "mdistiller": "mdistiller",
}
"""The columns: what each reference is called."""

WIDTHS = (19, 19, *4 * (20,), 25)
COLOURS = {"fp32": "tab:blue", "bf16": "tab:orange"}


def record(name: str, measured: Measurement, device: torch.device) -> dict[str, Any]:
    """A row of the JSON.

    Keys: `name`; `comparisons`, one for each reference and precision of kdrun, with `reference, kdrun, ratio, low,
    high, gate, passed` and `reference_seconds, kdrun_seconds` per unit; `images` of a unit; `skipped`, reasons by
    reference; `first_seconds` by side; `percent_of_roof`, of kdrun in bf16; `remark`.
    """
    times, gates = measured.times, ROWS[name].gates(device)
    comparisons = []
    for reference in [side for side in REFERENCES if side in times.seconds]:
        for precision in [side for side in PRECISIONS if side in times.seconds]:
            ratio, gate = times.ratio(reference, precision), gates.get((reference, precision))
            comparisons.append(
                {
                    "reference": reference,
                    "kdrun": precision,
                    "ratio": ratio.median,
                    "low": ratio.low,
                    "high": ratio.high,
                    "gate": gate,
                    "passed": None if gate is None else ratio.median >= gate,
                    "reference_seconds": times.of(reference),
                    "kdrun_seconds": times.of(precision),
                }
            )
    return {
        "name": name,
        "comparisons": comparisons,
        "images": measured.images,
        "skipped": times.skipped,
        "first_seconds": times.first,
        "percent_of_roof": 100 * measured.roof / times.of("bf16") if measured.roof else None,
        "remark": measured.remark,
    }


def heading(torchdistill: str | None) -> str:
    """The first two lines of the table, with torchdistill's version."""
    names = _names(torchdistill)
    rule = "|".join("-" * (width + 2) for width in WIDTHS)
    return f"{_line(['row', 'kdrun', *names.values(), 'gate', 'remark'])}\n|{rule}|---|"


def lines(entry: Mapping[str, Any]) -> str:
    """A record as lines of the table: the speed of each reference, then kdrun's in each precision with the ratios."""
    by_reference = {one["reference"]: one["reference_seconds"] for one in entry["comparisons"]}
    speeds = [
        _rate(entry["images"] / by_reference[side])
        if side in by_reference
        else "skipped"
        if side in entry["skipped"]
        else ""
        for side in REFERENCES
    ]
    found = [_line([entry["name"], "", *speeds, "", _remark(entry)])]
    for precision in PRECISIONS:
        ours = {one["reference"]: one for one in entry["comparisons"] if one["kdrun"] == precision}
        if ours:
            speed = _rate(entry["images"] / next(iter(ours.values()))["kdrun_seconds"])
            ratios = [_ratio(ours[side]) if side in ours else "" for side in REFERENCES]
            found.append(_line(["", f"{precision}: {speed}", *ratios, _gates(ours.values()), ""]))
    return "\n".join(found)


def _names(torchdistill: str | None) -> dict[str, str]:
    return {**REFERENCES, "torchdistill": f"torchdistill {torchdistill or ''}".strip()}


def _line(cells: Sequence[str]) -> str:
    padded = [f"{cell:{width}}" for cell, width in zip(cells, WIDTHS, strict=False)]
    return f"| {' | '.join([*padded, *cells[len(WIDTHS) :]])} |"


def _remark(entry: Mapping[str, Any]) -> str:
    parts = [ROWS[entry["name"]].title, entry["remark"]]
    if entry["percent_of_roof"] is not None:
        parts.append(f"bf16: {entry['percent_of_roof']:.0f} % of the roofline")
    parts += [f"{side} skipped: {reason}" for side, reason in entry["skipped"].items()]
    return "; ".join(part for part in parts if part).replace("|", "/")


def _rate(images_per_second: float) -> str:
    digits = 0 if images_per_second >= 10 else 1
    return f"{images_per_second:.{digits}f} img/s"


def _ratio(one: Mapping[str, Any]) -> str:
    low, high = (times_as_fast(one[bound]).rstrip("x") for bound in ("low", "high"))
    return f"{times_as_fast(one['ratio'])} ({low} - {high})"


def _gates(ours: Any) -> str:
    return "; ".join(
        f"{one['reference']} {times_as_fast(one['gate'])} {'reached' if one['passed'] else 'MISSED'}"
        for one in ours
        if one["gate"] is not None
    )


def times_as_fast(ratio: float) -> str:
    """A ratio as text, with two digits after the point below 10."""
    return f"{ratio:.0f}x" if ratio >= 20 else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def chart(path: Path, records: Sequence[Mapping[str, Any]], facts: dict[str, Any]) -> None:
    """Ratios as bars with their spread and gates, as PNG; parts of a step only if nothing else was measured."""
    shown = [entry for entry in records if not ROWS[entry["name"]].is_part] or records
    groups = [
        (entry["name"], side, [one for one in entry["comparisons"] if one["reference"] == side])
        for entry in shown
        for side in REFERENCES
        if any(one["reference"] == side for one in entry["comparisons"])
    ][::-1]
    names = _names(facts["torchdistill"])
    furthest = max(max(one["high"], one["gate"] or 0) for _, _, ones in groups for one in ones)
    with figure(path, 8.5, 1.2 + 0.45 * len(groups)) as drawn:
        axes = drawn.add_subplot()
        style(axes)
        axes.grid(visible=False, axis="y")
        for place, (_, _, ones) in enumerate(groups):
            for one in ones:
                y = place + (0.18 if one["kdrun"] == "fp32" else -0.18)
                axes.barh(y, one["ratio"], height=0.34, color=COLOURS[one["kdrun"]], alpha=0.75)
                axes.hlines(y, one["low"], one["high"], colors="0.2")
                axes.annotate(
                    times_as_fast(one["ratio"]), (0, y), (4, 0), textcoords="offset points", va="center", fontsize=7
                )
                if one["gate"] is not None:
                    axes.vlines(one["gate"], y - 0.17, y + 0.17, colors="tab:red", linewidths=2.5)
        axes.axvline(1, color="0.4", linestyle=":", zorder=1.5)
        axes.set_ylim(-0.6, len(groups) - 0.4)
        axes.set_yticks(range(len(groups)), [f"{name}  against  {names[side]}" for name, side, _ in groups])
        axes.tick_params(axis="y", labelsize="small")
        axes.set_xlim(left=0, right=1.05 * furthest)
        axes.set_xlabel("times as fast (median; dark line: lowest to highest round)")
        axes.set_title(f"{in_words(facts)}, {facts['date']}", fontsize="x-small", loc="right")
        legend_below(drawn, _legend())


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    bars = [Patch(color=colour, alpha=0.75, label=f"kdrun {precision}") for precision, colour in COLOURS.items()]
    return [*bars, Line2D([], [], color="tab:red", linewidth=2.5, label="gate")]
