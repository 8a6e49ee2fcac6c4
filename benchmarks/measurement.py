"""The figures of a row."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from benchmarks.timing import Comparison


@dataclass(frozen=True)
class Measurement:
    """One row's figures.

    Attributes:
        ratio: speed-up of kdrun, the median of the pairs; for the memory row, bytes.
        low: lowest of the pairs.
        high: highest of the pairs.
        reference: the reference's figure as text: images per second, seconds.
        kdrun: kdrun's, likewise.
        reference_first: seconds of the reference's first block, which no other figure includes; None if nothing is
            timed in blocks.
        kdrun_first: kdrun's, including compilation.
        remark: how kdrun computed.
        percent_of_roof: share of the GPU's roofline; None if unknown.
    """

    ratio: float
    low: float
    high: float
    reference: str
    kdrun: str
    reference_first: float | None = None
    kdrun_first: float | None = None
    remark: str = ""
    percent_of_roof: float | None = None


def compared(
    times: Comparison,
    *,
    images: int | None,
    first: tuple[float, float] | None = None,
    remark: str = "",
    roof: float | None = None,
) -> Measurement:
    """The figures of two sides that were timed alternately.

    Args:
        times: seconds per unit.
        images: images per unit, to show images per second; None shows the time of a unit.
        first: seconds of the first blocks of reference and kdrun.
        remark: how kdrun computed.
        roof: seconds per unit at the limit of the device.
    """
    reference, kdrun = statistics.median(times.reference), statistics.median(times.kdrun)
    return Measurement(
        ratio=statistics.median(times.ratios),
        low=min(times.ratios),
        high=max(times.ratios),
        reference=_shown(reference, images),
        kdrun=_shown(kdrun, images),
        reference_first=first[0] if first else None,
        kdrun_first=first[1] if first else None,
        remark=remark,
        percent_of_roof=100 * roof / kdrun if roof else None,
    )


def _shown(seconds: float, images: int | None) -> str:
    if images is not None:
        rate = images / seconds
        return f"{rate:.0f} img/s" if rate >= 10 else f"{rate:.2g} img/s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e6 * seconds:.1f} us"
