"""Distillation methods: one small class a method, one file a family.

A method gets a batch and the teacher's output for it. Its state between batches is in buffers, and so in every
checkpoint, as the memories of CRD: a resumed run ends with the same bits. What can be computed again is not kept: the
teacher's FSP matrices are computed at every step, since its views change with every epoch, and values from another
batch are equal only up to rounding.

The protocol is imported here; the methods (`kdrun.methods.KD`) are found in the modules by their names. For a type
checker they are of any type: code that needs theirs imports from the module (`kdrun.methods.kd`).
"""

import functools
import inspect
from typing import Any

from kdrun import lazy
from kdrun.methods.base import (
    Batch,
    Distillation,
    Method,
    Needs,
    Objective,
    Pair,
    StudentOutput,
    TeacherOutput,
    TrainingSet,
)
from kdrun.methods.facts import Weights

__all__ = [
    "Batch",
    "Distillation",
    "Method",
    "Needs",
    "Objective",
    "Pair",
    "StudentOutput",
    "TeacherOutput",
    "TrainingSet",
    "Weights",
    "shipped_methods",
]


@functools.cache
def shipped_methods() -> dict[str, type[Method]]:
    """The methods of kdrun by name: the concrete ones among the classes of this package's modules."""
    found = [lazy.attribute(__name__, name) for name in lazy.definitions(__name__)]
    kinds = [kind for kind in found if inspect.isclass(kind) and issubclass(kind, Method) and hasattr(kind, "name")]
    return {kind.name: kind for kind in kinds if not inspect.isabstract(kind)}


def __getattr__(name: str) -> Any:
    return lazy.attribute(__name__, name)
