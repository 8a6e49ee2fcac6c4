"""Several finished runs as one: the mean of their probabilities on the test set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from kdrun.experiment.derived.base import DerivedRow, described

if TYPE_CHECKING:
    from kdrun.experiment.runner import Runner


@dataclass(frozen=True)
class Ensemble(DerivedRow):
    """The mean of the runs' probabilities (Hinton, Vinyals, Dean 2015); of one run it is the run itself.

    Attributes:
        mean: of the probabilities: `arithmetic`; or `geometric`, normalised, the softmax of the mean logits.
    """

    mean: Literal["arithmetic", "geometric"] = "arithmetic"

    several: ClassVar[bool] = True

    def __post_init__(self) -> None:
        in_order = sorted(self.specs, key=lambda spec: spec.run_id)  # a mean does not depend on it, its rounding would
        object.__setattr__(self, "specs", tuple(in_order))
        names = sorted({f"{spec.dataset.name} ({spec.dataset.identity[:8]})" for spec in self.specs})
        if len(names) > 1:
            raise ValueError(f"of: its runs must be of one dataset, not of {' and '.join(names)}")

    def words(self) -> str:
        return f"{self.mean} mean of {len(self.specs)} runs"

    def compute(self, runner: Runner) -> dict[str, Any]:
        answers, labels = zip(*(runner.logits(spec) for spec in self.specs), strict=True)
        probabilities = torch.stack([answer.double().log_softmax(dim=1) for answer in answers])
        if self.mean == "geometric":
            return described(probabilities.mean(dim=0).log_softmax(dim=1), labels[0])
        return described(probabilities.logsumexp(dim=0) - math.log(len(probabilities)), labels[0])
