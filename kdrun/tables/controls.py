"""Controls: what a row must be compared with before its gain is credited to its soft targets.

The released Tf-KD losses do not add up to 1: their soft-target term is divided by K, so the whole objective shrinks
while weight decay stays. Each control is the same run with one thing changed, as a function of the row's spec.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdrun.spec.components import all_options, method_class, resolve
from kdrun.spec.signature import without_defaults
from kdrun.spec.spec import Component, Spec


@dataclass(frozen=True)
class Weights:
    """What a distillation loss amounts to: `hard * CE + soft * KL` with the KL per image.

    Attributes:
        hard: 1 - alpha.
        soft: alpha m, divided by K where the KL is averaged over the classes too. T^2 stands apart.
    """

    hard: float
    soft: float

    @property
    def scale(self) -> float:
        """c: the whole weight of the objective."""
        return self.hard + self.soft


def divided_by_classes(method: Component) -> bool:
    """Whether a method's soft term is averaged over the K classes, as in the released Tf-KD code."""
    options = all_options(method)
    released = options.get("variant") == "released" and options["multiplier"] is not None
    return options.get("kl_reduction") == "mean" or released


def effective_weights(spec: Spec) -> Weights | None:
    """The weights of a run's objective; None for methods other than CE and one KL."""
    options = all_options(spec.method)
    if not {"kl_reduction", "correct_prob"} & options.keys():
        return None
    alpha, classes = options["alpha"], spec.dataset.num_classes if divided_by_classes(spec.method) else 1
    multiplier = 1.0 if options["multiplier"] is None else options["multiplier"]
    return Weights(1 - alpha, alpha * multiplier / classes)


def matched_epsilon(spec: Spec) -> float | None:
    """The epsilon of the label smoothing that a run's soft targets amount to.

    For Tf-KD_reg as released exactly: `K w u / c` with `w = alpha m / K`, `c = 1 - alpha + w` and
    `u = softmax(p^d / T)` on a wrong class. For KD the share of the soft targets, `w / c`. None where there is none.
    """
    weights, options = effective_weights(spec), all_options(spec.method)
    if weights is None or options.get("variant") == "paper":
        return None
    share = weights.soft / weights.scale
    if "correct_prob" not in options:
        return share
    classes, temperature, correct = spec.dataset.num_classes, options["temperature"], options["correct_prob"]
    wrong = math.exp((1 - correct) / (classes - 1) / temperature)
    return classes * share * wrong / (math.exp(correct / temperature) + (classes - 1) * wrong)


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
    """`c CE`, the objective's whole weight on the labels; for Tf-KD_reg as released `c LSR`, its equal."""
    weights, epsilon = effective_weights(spec), matched_epsilon(spec)
    if weights is None:
        return None
    if "correct_prob" in all_options(spec.method) and epsilon is not None:
        return _taught_by(spec, "kdrun.methods.LSR", epsilon=epsilon, scale=weights.scale)
    return _taught_by(spec, "kdrun.methods.CE", scale=weights.scale)


def matched_lsr(spec: Spec) -> Spec | None:
    """Label smoothing at the matched epsilon, at the scale of the baseline."""
    epsilon = matched_epsilon(spec)
    return None if epsilon is None else _taught_by(spec, "kdrun.methods.LSR", epsilon=epsilon)


def untrained(spec: Spec) -> Spec | None:
    """The same teacher as it was before its first step; one with weights of the user's own is initialised instead."""
    if not spec.teachers:
        return None
    teachers = tuple(dataclasses.replace(teacher, stop_epoch=0, weights=None) for teacher in spec.teachers)
    return dataclasses.replace(spec, teachers=teachers)


def uniform(spec: Spec) -> Spec | None:
    """Soft targets that say nothing: 1/K on every class."""
    if not spec.teachers:
        return None
    return _taught_by(spec, "kdrun.methods.KDUniform", **spec.method.options)


CONTROLS: dict[str, Callable[[Spec], Spec | None]] = {
    "no_kl": no_kl,
    "scaled": scaled,
    "matched_lsr": matched_lsr,
    "untrained": untrained,
    "uniform": uniform,
}
"""By name: from a row's spec to its control's; None where it does not apply."""


def objective(spec: Spec) -> str:
    """A run's loss in one line, for instance `0.05 CE + 0.0095 T²KL, T=20`."""
    options, name = all_options(spec.method), method_class(spec.method).name
    weights = effective_weights(spec)
    if weights is not None:
        square = "" if "correct_prob" in options else "T²"
        side = ", student at T=1" if options.get("variant") == "released" else ""
        soft = f"{weights.soft:.4g} {square}KL"
        return f"{weights.hard:.4g} CE + {soft}, T={options['temperature']:g}{side}"
    scale = options.get("scale", 1.0)
    factor = "" if scale == 1 else f"{scale:.4g} "
    if name == "ce":
        return f"{factor}CE"
    if name == "lsr":
        others = ", on the wrong classes" if options["spread"] == "others" else ""
        return f"{factor}LSR, ε={options['epsilon']:.4g}{others}"
    if options.get("stage1_epochs"):
        count = options["stage1_epochs"]
        return f"{name}, {count} epoch{'' if count == 1 else 's'} of stage 1 first"
    if name == "sum":
        terms = [(term["weight"], each) for each, term in options["terms"].items()]
        return _added((options["hard_weight"], "CE"), *terms)
    if "weight" in options:
        return _added((options.get("hard_weight", 1.0), "CE"), (options["weight"], name))
    if "alpha" in options:
        return f"{1 - options['alpha']:.4g} CE + {options['alpha'] * options.get('multiplier', 1.0):.4g} {name}"
    return name


def _added(*weighed: tuple[float, str]) -> str:
    """Terms with their weights; those that weigh nothing are left out."""
    return " + ".join(what if weight == 1 else f"{weight:.4g} {what}" for weight, what in weighed if weight)
