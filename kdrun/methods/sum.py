"""Several distillation terms at once, each with its weight and options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from kdrun import losses
from kdrun.methods.attention import AT
from kdrun.methods.base import Batch, Distillation, Method, Needs, Objective, Pair, StudentOutput, TeacherOutput
from kdrun.methods.dist import DIST
from kdrun.methods.dkd import DKD
from kdrun.methods.fitnet import FitNet
from kdrun.methods.fsp import FSP
from kdrun.methods.kd import KD, KDUniform
from kdrun.methods.logit_matching import LogitMatching
from kdrun.methods.partial_kd import KDPt, KDSim, KDTopK
from kdrun.methods.relations import RKD, SimilarityPreserving
from kdrun.methods.tfkd_reg import TfKDReg
from kdrun.methods.triplet import Triplet

KINDS: tuple[type[Distillation], ...] = (
    *(KD, KDUniform, TfKDReg, LogitMatching, KDTopK, KDPt, KDSim, DKD, DIST, Triplet),
    *(FitNet, FSP, AT, RKD, SimilarityPreserving),
)
TERMS = {kind.name: kind for kind in KINDS}
"""What can be a term, by name: the methods that are cross-entropy and one term more, from one teacher's output."""

NO_TERMS = {
    "ce": "the labels are in every sum, weighed by hard_weight",
    "lsr": "it is about the labels, which a sum takes as they are",
    "tfkd_self": "its teacher is of the student's own architecture; the same term is kd",
    "born_again": "its teachers are generations of the student",
    "takd": "its teacher is an assistant with a teacher of its own; the same term is kd",
    "kd_ensemble": "it has several teachers, a sum has one",
    "weight_distillation": "it generates the student's weights, and has no form without a first stage",
    "dml": "its networks learn from each other, without a teacher",
    "sum": "its terms can be written here",
}
"""Why the other methods cannot be a term, by name."""


def term_weight(weight: float | None = None) -> float | None:
    """The option of a term that is the sum's: its weight, at least 0; None is what the method has alone."""
    return weight


class Sum(Method):
    """`hard_weight * CE + sum_i weight_i * term_i`: any methods of one term each, on the same forward pass.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        pair: for the terms that need it.
        terms: by the name of a method, its options, and `weight` of its term (by default what the method has alone);
            one that is None is none. They are built and added in the order of their names, whatever order they have.
        hard_weight: of the cross-entropy with the labels, at least 0.

    Raises:
        ValueError: no terms, a name that is none, or what a term's method refuses.
    """

    name = "sum"
    knowledge = "response"
    needs = Needs(logits=True, any_task=True)

    def __init__(
        self, student: nn.Module, pair: Pair, *, terms: Mapping[str, Mapping[str, Any] | None], hard_weight: float = 1.0
    ) -> None:
        super().__init__(student)
        losses.check_range("hard_weight", hard_weight, 0)
        if not any(options is not None for options in terms.values()):
            raise ValueError(f"terms={{}}: must have one term at least; terms are {', '.join(sorted(TERMS))}")
        self.hard_weight = hard_weight
        chosen = {name: options for name, options in sorted(terms.items()) if options is not None}
        self.terms = nn.ModuleDict({name: _term(name, pair, options) for name, options in chosen.items()})
        self.weights: dict[str, float] = {}
        for name, term in self._terms():
            weight = term_weight(chosen[name].get("weight"))
            self.weights[name] = term.weight if weight is None else weight
            losses.check_range(f"terms.{name}.weight", self.weights[name], 0)
        self.taps = tuple(dict.fromkeys(tap for _, term in self._terms() for tap in term.taps))
        features = dict.fromkeys(tap for _, term in self._terms() for tap in term.needs.features)
        asked = [term.needs for _, term in self._terms()]
        self.needs = Needs(
            logits=True,
            features=tuple(features),
            weights=any(needs.weights for needs in asked),
            any_task=all(needs.any_task or not needs.teacher for needs in asked),
        )

    def _terms(self) -> list[tuple[str, Distillation]]:
        return [(name, term) for name, term in self.terms.items() if isinstance(term, Distillation)]

    def objective(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        values = {"ce": losses.cross_entropy(student.logits, batch.y)}
        for name, term in self._terms():
            values[name] = term.distill(student, batch, teacher)
        return Objective.of(student.logits, values, {"ce": self.hard_weight, **self.weights})


def _term(name: str, pair: Pair, options: Mapping[str, Any]) -> Distillation:
    """A method without a student of its own: it sees what the sum's student says."""
    if name not in TERMS:
        reason = NO_TERMS.get(name, "there is no such method")
        raise ValueError(f"terms.{name}: cannot be a term: {reason}; terms are {', '.join(sorted(TERMS))}")
    kind = TERMS[name]
    own = {option: value for option, value in options.items() if option != "weight"}
    given = {"pair": pair} if "pair" in inspect.signature(kind).parameters else {}
    try:
        return kind(nn.Identity(), **given, **own)
    except ValueError as error:
        raise ValueError("\n".join(_of_term(name, line) for line in str(error).splitlines())) from error


def _of_term(name: str, problem: str) -> str:
    """What is wrong with a term: with an option of it, or with a network that it is to compare."""
    if problem.partition("=")[0] in ("student", "teacher"):
        return f"{problem} (method.terms.{name})"
    return f"terms.{name}.{problem}"
