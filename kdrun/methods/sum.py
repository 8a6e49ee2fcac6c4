"""Several distillation terms at once, each with its weight and options."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from kdrun import losses
from kdrun.methods import shipped_methods
from kdrun.methods.base import (
    NO_TEACHER,
    Batch,
    Distillation,
    Method,
    Needs,
    Objective,
    Pair,
    StudentOutput,
    TeacherOutput,
    TrainingSet,
    together,
)
from kdrun.methods.facts import Options, added

TAKEN = ("loss", "ce", "top1", "teacher_top1", "agreement")
"""Names in the metrics that no term can have."""


def shipped_terms() -> list[str]:
    """Those of kdrun's methods that can be a term."""
    return sorted(name for name, kind in shipped_methods().items() if kind.why_no_term() is None)


def check_term(name: str, kind: type[Method] | None) -> type[Distillation]:
    """The method as a term of this name.

    Raises:
        ValueError: there is none, it cannot be a term, or the name is taken.
    """
    if kind is None:
        raise ValueError(f"there is no such method; terms are {', '.join(shipped_terms())}")
    if reason := kind.why_no_term():
        raise ValueError(f"cannot be a term: {reason}; terms are {', '.join(shipped_terms())}")
    if name in TAKEN or not name.isidentifier() or hasattr(nn.ModuleDict, name):
        raise ValueError(f"is no name for a term: it must be a word, and none of {', '.join(TAKEN)}")
    assert issubclass(kind, Distillation)
    return kind


def term_weight(weight: float | None = None) -> float | None:
    """The option of a term that is the sum's: its weight, from 0 to 1e9; None is what the method has alone."""
    return weight


class Sum(Method):
    """`hard_weight * CE + sum_i weight_i * term_i`: any methods of one term each, on the same forward pass.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        pair: for the terms that need it.
        training: likewise.
        terms: by name, the options of a method, and `weight` of its term (by default what the method has alone); one
            that is None is none. A term has the name of one of kdrun's methods, or any name where `_target_` is the
            class of its method. They are built and added in the order of their names, whatever order they have.
        hard_weight: of the cross-entropy with the labels, from 0 to 1e9.

    Raises:
        ValueError: no terms, a name that is none, or what a term's method refuses.
    """

    name = "sum"
    knowledge = "response"
    needs = Needs(logits=True, any_task=True)

    def __init__(
        self,
        student: nn.Module,
        pair: Pair,
        training: TrainingSet,
        *,
        terms: Mapping[str, Mapping[str, Any] | None],
        hard_weight: float = 1.0,
    ) -> None:
        super().__init__(student)
        losses.check_weight("hard_weight", hard_weight)
        if not any(options is not None for options in terms.values()):
            raise ValueError(f"terms={{}}: must have one term at least; terms are {', '.join(shipped_terms())}")
        self.hard_weight = hard_weight
        chosen = {name: options for name, options in sorted(terms.items()) if options is not None}
        given = {"pair": pair, "training": training}
        self.terms = nn.ModuleDict({name: _term(name, given, options) for name, options in chosen.items()})
        self.weights: dict[str, float] = {}
        for name, term in self._terms():
            weight = term_weight(chosen[name].get("weight"))
            self.weights[name] = term.default_weight() if weight is None else weight
            losses.check_weight(f"terms.{name}.weight", self.weights[name])
            if term.weight != term.default_weight():
                raise ValueError(
                    f"terms.{name}: {type(term).__name__} sets its weight, {term.weight!r}, and its default_weight() "
                    f"is {term.default_weight()!r}; they must agree, and options that change it be named in `alone`: "
                    f"in a sum the weight is terms.{name}.weight"
                )
        self.whole_batch = any(term.whole_batch for _, term in self._terms())
        self.taps = tuple(dict.fromkeys(tap for _, term in self._terms() for tap in term.taps))
        self.needs = dataclasses.replace(together([term.needs for _, term in self._terms()]), logits=True)
        self.label_kind = "mixed" if all(term.label_kind == "mixed" for _, term in self._terms()) else "smoothed"
        self.notices = tuple(f"{name}: {line}" for name, term in self._terms() for line in term.notices)

    @classmethod
    def objective_text(cls, options: Options, num_classes: int) -> str:
        terms = [(term["weight"], name) for name, term in options["terms"].items()]
        return added((options["hard_weight"], "CE"), *terms)

    def _terms(self) -> list[tuple[str, Distillation]]:
        return [(name, term) for name, term in self.terms.items() if isinstance(term, Distillation)]

    def objective(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        values = {"ce": batch.cross_entropy(student.logits)}
        for name, term in self._terms():
            values[name] = term.distill(student, batch, NO_TEACHER if teacher is None else teacher)
        return Objective.of(student.logits, values, {"ce": self.hard_weight, **self.weights})


def _term(name: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> Distillation:
    """A method without a student of its own: it gets the output of the sum's student."""
    own = {option: value for option, value in options.items() if option not in ("weight", "_target_")}
    try:
        kind = check_term(name, options.get("_target_", shipped_methods().get(name)))
    except ValueError as error:
        raise ValueError(f"terms.{name}: {error}") from None
    asked = inspect.signature(kind).parameters
    try:
        return kind(nn.Identity(), **{name: value for name, value in given.items() if name in asked}, **own)
    except ValueError as error:
        raise ValueError("\n".join(_of_term(name, line) for line in str(error).splitlines())) from error


def _of_term(name: str, problem: str) -> str:
    """What is wrong with a term: with an option of it, or with a network that it is to compare."""
    if problem.partition("=")[0] in ("student", "teacher"):
        return f"{problem} (method.terms.{name})"
    return f"terms.{name}.{problem}"
