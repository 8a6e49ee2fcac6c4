"""How a derived row is computed: `derived: {_target_: ..., of or teachers_of, options}`, read and checked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdrun.experiment.derived import DerivedRow
from kdrun.spec.components import target_of
from kdrun.spec.own_code import sources
from kdrun.spec.signature import bind
from kdrun.spec.spec import Spec


@dataclass(frozen=True)
class Derivation:
    """A `derived` group.

    Attributes:
        kind: class of the figures.
        rows: names of the rows whose runs of the same seed they are computed from.
        teachers: whether from the teachers of these runs instead.
        options: of the class.
    """

    kind: type[DerivedRow]
    rows: tuple[str, ...]
    teachers: bool
    options: Mapping[str, Any]

    def of_a_seed(self, specs: Sequence[Spec]) -> DerivedRow:
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

    @classmethod
    def from_values(cls, value: Any, path: str, problems: list[str]) -> Derivation | None:
        """Reads a `derived` group; every fault becomes a line in `problems`."""
        found = target_of(value, path, problems, kind=DerivedRow)
        if found is None:
            return None
        kind, options = found
        if not (inspect.isclass(kind) and issubclass(kind, DerivedRow)):
            problems.append(f"{path}._target_: {value['_target_']!r} must be a class")
            return None
        fault_count = len(problems)
        named = {name: options.pop(name) for name in ("of", "teachers_of") if name in options}
        bound = bind(kind, options, path, problems, injected=("specs",))
        if len(named) != 1:
            problems.append(f"{path}: must have either of or teachers_of")
        for name, given in named.items():
            rows = tuple(given) if isinstance(given, (list, tuple)) else (given,)
            several = kind.several and name == "of"
            enough = len(rows) >= 2 if several else len(rows) == 1
            if not enough or not all(isinstance(row, str) for row in rows) or len(set(rows)) != len(rows):
                number = "at least two rows, each once" if several else "one row"
                problems.append(f"{path}.{name}={given!r}: must name {number}")
        try:
            sources(kind, value["_target_"], bound)  # they are part of the key
        except ValueError as error:
            problems.append(f"{path}._target_={value['_target_']}: {error}")
        if len(problems) > fault_count:
            return None
        return cls(kind, rows, "teachers_of" in named, bound)
