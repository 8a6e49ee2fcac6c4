"""Controls: what a row must be compared with before its gain is credited to its soft targets.

The released Tf-KD losses do not add up to 1: their soft-target term is divided by K, so the whole objective shrinks
while weight decay stays. Each control is the same run with one thing changed, as a function of the row's spec.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from kdrun.spec.components import Weights, all_options, method_class, resolve
from kdrun.spec.signature import without_defaults
from kdrun.spec.spec import Component, Spec


def effective_weights(spec: Spec) -> Weights | None:
    """The weights of a run's objective; None for methods other than CE and one KL."""
    return method_class(spec.method).effective_weights(all_options(spec.method), spec.dataset.num_classes)


def objective(spec: Spec) -> str:
    """A run's loss in one line, for instance `0.05 CE + 0.0095 T²KL, T=20`."""
    return method_class(spec.method).objective_text(all_options(spec.method), spec.dataset.num_classes)


def rescaled(spec: Spec, num_classes: int, other: int) -> dict[str, Any]:
    """The options of a run's method that keep its effective weights at `other` classes instead of `num_classes`."""
    return method_class(spec.method).rescaled(all_options(spec.method), num_classes, other)


def _taught_by(spec: Spec, target: str, **options: Any) -> Spec:
    """The run with another method that needs no teacher; numbers rounded to six digits, as one would type them."""
    rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in options.items()}
    method = Component(target, without_defaults(resolve(target), rounded))
    return dataclasses.replace(spec, method=method, teachers=())


def no_kl(spec: Spec) -> Spec | None:
    """`(1 - alpha) CE`: the row without its soft targets."""
    weights = effective_weights(spec)
    if weights is None or weights.hard <= 0:
        return None
    return _taught_by(spec, "kdrun.methods.CE", scale=weights.hard)


def scaled(spec: Spec) -> Spec | None:
    """`c CE`, the objective's whole weight on the labels; `c LSR` where that is the objective's equal."""
    weights = effective_weights(spec)
    if weights is None:
        return None
    if weights.is_smoothing:
        if not spec.recipe.has_hard_labels:
            return None
        return _taught_by(spec, "kdrun.methods.LSR", epsilon=weights.epsilon, scale=weights.scale)
    return _taught_by(spec, "kdrun.methods.CE", scale=weights.scale)


def matched_lsr(spec: Spec) -> Spec | None:
    """Label smoothing at the matched epsilon, at the scale of the baseline."""
    weights = effective_weights(spec)
    if weights is None or weights.epsilon is None or not spec.recipe.has_hard_labels:
        return None
    return _taught_by(spec, "kdrun.methods.LSR", epsilon=weights.epsilon)


def untrained(spec: Spec) -> Spec | None:
    """The same teacher as it was before its first step; one with weights of the user's own is initialised instead."""
    if not spec.teachers:
        return None
    teachers = tuple(dataclasses.replace(teacher, stop_epoch=0, weights=None) for teacher in spec.teachers)
    return dataclasses.replace(spec, teachers=teachers)


def uniform(spec: Spec) -> Spec | None:
    """KD from soft targets without information, 1/K on every class, where the method's options are those of KD."""
    options = all_options(spec.method)
    known = inspect.signature(resolve("kdrun.methods.KDUniform")).parameters.keys()
    if not spec.teachers or effective_weights(spec) is None or options.keys() - known:
        return None
    return _taught_by(spec, "kdrun.methods.KDUniform", **options)


CONTROLS: dict[str, Callable[[Spec], Spec | None]] = {
    "no_kl": no_kl,
    "scaled": scaled,
    "matched_lsr": matched_lsr,
    "untrained": untrained,
    "uniform": uniform,
}
"""By name: from a row's spec to its control's; None where it does not apply."""

LABELS = {
    "no_kl": "KL removed",
    "scaled": "{method} at the whole weight",
    "matched_lsr": "LSR, matched ε",
    "untrained": "{teacher} untrained",
    "uniform": "uniform soft targets",
}
"""The controls in words, with the label of the control's method and the name of its teacher's network."""
