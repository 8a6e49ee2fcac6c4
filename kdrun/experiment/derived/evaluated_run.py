"""A finished run's figures in an evaluation (`kdrun.experiment.evaluations`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.experiment.derived.base import Derived
from kdrun.experiment.evaluations import NamedEvaluation

if TYPE_CHECKING:
    from kdrun.experiment.runner import Runner


@dataclass(frozen=True)
class EvaluatedRun(Derived):
    """One run in one evaluation. It has `figures` and `buckets`, and cannot be a row.

    Attributes:
        named: the evaluation, which fits the run's dataset.
    """

    named: NamedEvaluation

    kind: ClassVar[str] = "evaluation"

    @property
    def options(self) -> dict[str, Any]:
        return self.named.identity

    def words(self) -> str:
        return self.named.evaluation.what

    def compute(self, runner: Runner) -> dict[str, Any]:
        (spec,) = self.specs
        return self.named.evaluation.evaluate(runner, spec)
