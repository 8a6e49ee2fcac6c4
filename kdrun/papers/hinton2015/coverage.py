"""What specialists change, by how many of them know an image's class: table 4 of Hinton, Vinyals, Dean 2015."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.analysis.plots import figure, set_heading, style
from kdrun.escaping import csv_text
from kdrun.experiment.derived import Derived
from kdrun.files import write_atomically
from kdrun.tables.compare import Line
from kdrun.tables.figures import Figure, Rendering
from kdrun.tables.labels import method_label

HEADER = ("student", "method", "num_specialists", "num_images", "num_correct_generalist", "num_correct", "change")


@dataclass(frozen=True)
class Bar:
    """Test images by the number of specialists that know their class, added up over the seeds.

    Attributes:
        number: of specialists.
        images: their number.
        before: of them right, by the generalist alone.
        after: with the specialists.
    """

    number: int
    images: int
    before: int
    after: int

    @property
    def change(self) -> float | None:
        """Of the images that are right, in percent; None where none was."""
        return 100 * (self.after - self.before) / self.before if self.before else None


class CoverageFigure(Figure):
    """`cover.csv` and `cover.png`, for the rows of specialists."""

    files = ("cover.png", "cover.csv")

    def draw(self, table: Rendering) -> None:
        found = [(line, bars) for line in table.lines if (bars := _bars(line, table.kept))]
        if not found:
            return
        rows = [
            (line.student, method_label(line.entry), bar.number, bar.images, bar.before, bar.after, bar.change)
            for line, bars in found
            for bar in bars
        ]
        write_atomically(table.directory / "cover.csv", csv_text([HEADER, *rows]))
        _draw(table.directory / "cover.png", found, table.title)


def _bars(line: Line, kept: Callable[[Derived], Mapping[str, Any] | None]) -> list[Bar]:
    """By the number of specialists; empty for rows of anything else."""
    sums: dict[int, list[int]] = {}
    for record in (kept(each) for each in line.entry.derived):
        for row in record.get("cover", ()) if record is not None else ():
            counts = (row["num_images"], row["num_correct_generalist"], row["num_correct_combined"])
            before = sums.get(row["num_specialists"], [0, 0, 0])
            sums[row["num_specialists"]] = [old + new for old, new in zip(before, counts, strict=True)]
    return [Bar(number, *counts) for number, counts in sorted(sums.items())]


def _draw(path: Path, found: Sequence[tuple[Line, Sequence[Bar]]], title: str) -> None:
    """A panel for each row of the table: by how much more images are right, with their number below."""
    widths = [max(2.6, 0.7 * len(bars)) for _, bars in found]
    with figure(path, 1.5 + sum(widths), 3.6) as drawn:
        panels = drawn.subplots(1, len(found), squeeze=False, sharey=True, width_ratios=widths)[0]
        for axes, (line, bars) in zip(panels, found, strict=True):
            style(axes)
            axes.set_xlim(-0.6, len(bars) - 0.4)
            axes.bar(range(len(bars)), [math.nan if bar.change is None else bar.change for bar in bars], color="C0")
            axes.axhline(0, color="0.3", linewidth=0.8)
            axes.set_xticks(range(len(bars)), [f"{bar.number}\n{bar.images:,}" for bar in bars], fontsize="small")
            axes.set_title(method_label(line.entry), fontsize="small")
            axes.set_xlabel("specialists that know the class,\nand test images", fontsize="small")
        drawn.axes[0].set_ylabel("change of the images\nthat are right (%)")
        set_heading(drawn, f"{title}: what the specialists change, seeds added up")
