"""Figures computed from finished runs: those of a table's row that trains nothing, or of a table's figure."""

from kdrun.experiment.derived.base import Derived, DerivedRow, compute, described, kept
from kdrun.experiment.derived.ensemble import Ensemble
from kdrun.experiment.derived.evaluated_run import EvaluatedRun

__all__ = ["Derived", "DerivedRow", "Ensemble", "EvaluatedRun", "compute", "described", "kept"]
