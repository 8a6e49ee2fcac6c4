"""The figures of a row."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.timing import Times


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
