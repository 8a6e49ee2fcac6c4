"""Figures that are computed from finished runs: what a table's row shows that is no training of its own."""

from collections.abc import Mapping

from kdrun.experiment.derived.base import Derived, compute, kept
from kdrun.experiment.derived.bias import Bias
from kdrun.experiment.derived.ensemble import Ensemble
from kdrun.experiment.derived.evaluation import EvaluatedRun
from kdrun.experiment.derived.paths import Paths
from kdrun.experiment.derived.specialists import Specialists

KINDS: Mapping[str, type[Derived]] = {kind.kind: kind for kind in (Ensemble, Bias, Specialists)}
"""Those that can be a row, by the name that a table's definition has for it."""

__all__ = ["KINDS", "Bias", "Derived", "Ensemble", "EvaluatedRun", "Paths", "Specialists", "compute", "kept"]
