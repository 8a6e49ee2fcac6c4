"""What a table shows of a run: its top-1, or the errors it makes. Results hold top-1; here alone it is converted."""

from __future__ import annotations

from dataclasses import dataclass

from kdrun.analysis.differences import Difference


@dataclass(frozen=True)
class Measure:
    """How a figure is computed and printed.

    Attributes:
        name: as in a definition.
        unit: of an axis.
        difference_unit: of a difference.
        digits: behind the point, of means and differences.
        fewer: whether less is better.
    """

    name: str
    unit: str
    difference_unit: str
    digits: int
    fewer: bool

    def of(self, top1: float, num_images: int) -> float:
        """The measure of a top-1 in percent on a number of images; errors are whole."""
        return float(round((100 - top1) * num_images / 100)) if self.fewer else top1

    @property
    def form(self) -> str:
        """The format of a published figure: counts of errors are printed whole."""
        return "g" if self.fewer else f".{self.digits}f"

    def signed(self, value: float, error: float | None = None) -> str:
        """A difference with its sign, and its standard error where it has one."""
        return signed(value, error, self.digits)

    def difference(self, found: Difference | None) -> str:
        return "" if found is None else self.signed(found.mean, found.standard_error)


def signed(value: float, error: float | None, digits: int) -> str:
    """`+1.24 ± 0.30`: a difference with its sign, and its standard error where it has one; never `-0.00`."""
    plain = f"{round(value, digits) + 0.0:+.{digits}f}"
    return plain + ("" if error is None else f" ± {error:.{digits}f}")


TOP1 = Measure("top1", "test top-1 (%)", "points", digits=2, fewer=False)
ERRORS = Measure("errors", "errors on the test set", "errors", digits=1, fewer=True)
MEASURES = {measure.name: measure for measure in (TOP1, ERRORS)}
