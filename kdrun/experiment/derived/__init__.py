"""Figures that are computed from finished runs: what a table's row shows that is no training of its own."""

from collections.abc import Mapping

from kdrun.experiment.derived.base import Derived, compute, kept
from kdrun.papers.hinton2015.bias import Bias
from kdrun.experiment.derived.ensemble import Ensemble
from kdrun.experiment.derived.evaluation import Evaluation
from kdrun.papers.abnar2020.paths import Paths
from kdrun.papers.hinton2015.specialists import Specialists

KINDS: Mapping[str, type[Derived]] = {kind.kind: kind for kind in (Ensemble, Bias, Specialists)}
"""Those that can be a row, by the name that a table's definition has for it."""

__all__ = ["KINDS", "Bias", "Derived", "Ensemble", "Evaluation", "Paths", "Specialists", "compute", "kept"]
