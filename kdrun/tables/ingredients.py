"""What a derived row is made of: `derived: {kind, of or teachers_of, options}`, read and checked.

`of` names rows, whose runs of the same seed it is made of; `teachers_of` names one, whose run's teachers it is made
of. The options are those of the kind (`kdrun.experiment.derived`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdrun.experiment.derived import KINDS, Derived
from kdrun.spec.signature import bind, unknown
from kdrun.spec.spec import Spec


@dataclass(frozen=True)
class Ingredients:
    """A `derived` group, read.

    Attributes:
        kind: of the figures.
        rows: whose runs they are made of.
        teachers: whether of the teachers of these runs, in their place.
        options: of the kind.
    """

    kind: type[Derived]
    rows: tuple[str, ...]
    teachers: bool
    options: Mapping[str, Any]

    def of_a_seed(self, specs: Sequence[Spec]) -> Derived:
        """The figures of one seed.

        Args:
            specs: of the runs of the rows, in their order.

        Raises:
            ValueError: they do not fit, with a line for each problem.
        """
        (first, *_) = specs
        if self.teachers and (len(first.teachers) < 2 if self.kind.several else len(first.teachers) != 1):
            number = "at least two teachers" if self.kind.several else "one teacher"
            raise ValueError(f"teachers_of={self.rows[0]}: must be a row with {number}, it has {len(first.teachers)}")
        return self.kind(tuple(first.teachers if self.teachers else specs), **self.options)


def ingredients(values: Mapping[str, Any]) -> Ingredients:
    """A faultless `derived` group, read."""
    teachers = "teachers_of" in values
    kind = KINDS[values["kind"]]
    options = bind(kind, _options(values), "derived", [], injected=("specs",))
    return Ingredients(kind, _names(values["teachers_of" if teachers else "of"]), teachers, options)


def check_ingredients(values: Mapping[str, Any]) -> None:
    """Whether a `derived` group is one.

    Raises:
        ValueError: with a line for each problem.
    """
    kind = str(values.get("kind"))
    if kind not in KINDS:
        raise ValueError(f"derived.kind={kind}: {unknown(kind, KINDS, 'kind')}")
    problems: list[str] = []
    bind(KINDS[kind], _options(values), "derived", problems, injected=("specs",))
    given = [name for name in ("of", "teachers_of") if name in values]
    if len(given) != 1:
        problems.append("derived: must have either of or teachers_of")
    for name in given:
        names = _names(values[name])
        enough = len(names) >= 2 if KINDS[kind].several and name == "of" else len(names) == 1
        if not enough or len(set(names)) != len(names) or not all(isinstance(each, str) for each in names):
            number = "at least two rows, each once" if KINDS[kind].several and name == "of" else "one row"
            problems.append(f"derived.{name}={values[name]!r}: must name {number}")
    if problems:
        raise ValueError("\n".join(problems))


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("kind", "of", "teachers_of")}


def _names(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)
