"""A student that has never seen a class, corrected: Hinton, Vinyals, Dean 2015, section 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from kdrun.experiment.derived import DerivedRow, described

if TYPE_CHECKING:
    from kdrun.experiment.runner import Runner

GRID = tuple(step / 10 for step in range(-200, 201))
"""The numbers that are tried: -20, -19.9, ..., 20. The paper's are 3.5 and -7.6."""


@dataclass(frozen=True)
class Bias(DerivedRow):
    """One number of `GRID` is added to the logits of some classes: that with which a split has the fewest errors.

    Of equally few errors it is the smallest in size, of b and -b the positive one.

    Attributes:
        classes: whose logits are raised, each once; some of them, not all.
        chosen_on: the split whose errors are counted: `val`, the held-out images; or `test`, as published, with the
            figures then of the images it was chosen on.
    """

    classes: tuple[int, ...]
    chosen_on: Literal["val", "test"] = "val"

    figures: ClassVar[dict[str, str]] = {"bias": "what is added to the logits of the corrected classes"}

    def __post_init__(self) -> None:
        dataset = self.specs[0].dataset
        chosen = set(self.classes)
        problems = []
        if len(chosen) != len(self.classes) or not chosen < set(range(dataset.num_classes)) or not chosen:
            allowed = f"some of the class indices from 0 to {dataset.num_classes - 1}, each once, not all"
            problems.append(f"classes={list(self.classes)}: must be {allowed}")
        if self.chosen_on == "val" and not dataset.val_fraction:
            problems.append("chosen_on=val: no images are held out; needs dataset.val_fraction above 0")
        if problems:
            raise ValueError("\n".join(problems))

    def words(self) -> str:
        classes = ", ".join(map(str, self.classes))
        split = "the validation images" if self.chosen_on == "val" else "the test images (optimistic)"
        return f"bias of {classes} by the fewest errors on {split}"

    def compute(self, runner: Runner) -> dict[str, Any]:
        (spec,) = self.specs
        logits, labels = runner.logits(spec, self.chosen_on)
        bias = min(GRID, key=lambda b: (self._num_errors(logits, labels, b), abs(b), -b))
        test_logits, test_labels = runner.logits(spec)
        return {**described(self._corrected(test_logits, bias), test_labels), "figures": {"bias": bias}}

    def _corrected(self, logits: Tensor, bias: float) -> Tensor:
        """The logits `[N, K]` in float64, with a number added to those of the classes."""
        corrected = logits.to(torch.float64, copy=True)
        corrected[:, list(self.classes)] += bias
        return corrected

    def _num_errors(self, logits: Tensor, labels: Tensor, bias: float) -> int:
        return int((self._corrected(logits, bias).argmax(dim=1) != labels).sum())
