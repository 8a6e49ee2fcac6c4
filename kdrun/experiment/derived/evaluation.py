"""A finished run under another evaluation than that of its result (`kdrun.experiment.evaluations`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdrun.experiment.derived.base import Derived
from kdrun.experiment.evaluations import EVALUATIONS

if TYPE_CHECKING:
    from kdrun.experiment.runner import Runner


@dataclass(frozen=True)
class Evaluation(Derived):
    """One run, asked one thing. It has `figures` and `buckets`, and is no row of its own.

    Attributes:
        on: name of the evaluation, which fits the run's dataset.
    """

    on: str

    def words(self) -> str:
        return EVALUATIONS[self.on].what

    def compute(self, runner: Runner) -> dict[str, Any]:
        (spec,) = self.specs
        return EVALUATIONS[self.on].ask(runner, spec)
