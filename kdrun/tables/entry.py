"""A row of a table with its runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from kdrun.experiment.derived import DerivedRow, Ensemble, EvaluatedRun
from kdrun.experiment.evaluations import NamedEvaluation
from kdrun.spec.components import method_class
from kdrun.spec.spec import Spec
from kdrun.tables.definition import Row


@dataclass(frozen=True)
class Entry:
    """A row that is ready to be run or rendered.

    Attributes:
        row: what it is.
        specs: one per seed; empty where kdrun cannot run it, and where the figures are derived.
        same_as: names of rows that are the same runs, and so are not shown.
        derived: the figures of a derived row, one per seed.
        named_evaluations: of the table.
    """

    row: Row
    specs: tuple[Spec, ...] = ()
    same_as: tuple[str, ...] = ()
    derived: tuple[DerivedRow, ...] = ()
    named_evaluations: tuple[NamedEvaluation, ...] = ()

    @property
    def asked(self) -> int:
        """How many figures it is to have, one per seed."""
        return len(self.specs) or len(self.derived)

    @property
    def seeds(self) -> tuple[frozenset[int], ...]:
        """The seeds behind each figure. Figures of two rows at one place are paired only if these are equal.

        An ensemble of a run's teachers has the teachers' seeds.
        """
        groups = [*((spec,) for spec in self.specs), *(each.specs for each in self.derived)]
        return tuple(frozenset(spec.seed for spec in group) for group in groups)

    @property
    def first(self) -> Spec | None:
        """The first run, of a derived row the first it is computed from; it stands for the row's student and data."""
        return next((spec for specs in (self.specs, *(each.specs for each in self.derived)) for spec in specs), None)

    @property
    def ensemble(self) -> DerivedRow | None:
        """All its runs as one; None for fewer than two."""
        return Ensemble(self.specs) if len(self.specs) > 1 else None

    @property
    def by_class(self) -> tuple[DerivedRow, ...]:
        """What knows the errors on each class, one per seed: the derived figures, or those of each run alone."""
        return self.derived or tuple(Ensemble((spec,)) for spec in self.specs)

    def evaluations(self, name: str) -> tuple[EvaluatedRun, ...]:
        """Its runs in an evaluation, one per seed; none of a derived row."""
        found = [each for each in self.named_evaluations if each.name == name]
        return tuple(EvaluatedRun((spec,), each) for spec in self.specs for each in found)

    def at_precision(self, precision: str) -> Entry:
        """The same row, computed in another precision."""
        return dataclasses.replace(
            self,
            specs=tuple(spec.at_precision(precision) for spec in self.specs),
            derived=tuple(each.at_precision(precision) for each in self.derived),
        )

    def without_published(self) -> Entry:
        """The same runs without published figures."""
        return dataclasses.replace(self, row=self.row.without_published())

    @property
    def student(self) -> str:
        """The student by the row's name where it is more specific than the spec's (`mlp_800`), else by the spec."""
        return _called(self.row.student, self.first.student.name) if self.first else self.row.student

    @property
    def teacher(self) -> str:
        """The teacher's network; empty where there is none, or where the method takes the student's own."""
        named = self.row.teacher.partition("@")[0]
        if self.specs:
            own = method_class(self.specs[0].method).needs.own_architecture
            networks = [teacher.student.name for teacher in self.specs[0].teachers[:1]]
            return "" if own else "".join(_called(named, network) for network in networks)
        return named

    @property
    def stop(self) -> str:
        """When the teacher was stopped, for instance `epoch 1 of 200`; empty where it was not."""
        if self.specs:
            stopped = [teacher for teacher in self.specs[0].teachers if teacher.stop_epoch is not None]
            return "".join(f"epoch {teacher.stop_epoch} of {teacher.recipe.epochs}" for teacher in stopped[:1])
        stop = self.row.teacher.partition("@")[2]
        return f"{float(stop):.3g} of the epochs" if "." in stop else f"epoch {stop}" if stop else ""


def _called(named: str, network: str) -> str:
    return named if named.startswith(f"{network}_") else network


def without_repetition(entries: Sequence[Entry]) -> list[Entry]:
    """Each set of runs once, under the name of the first row that asks for it."""
    first: dict[tuple[str, ...], int] = {}
    kept: list[Entry] = []
    for entry in entries:
        runs = tuple(spec.run_id for spec in entry.specs)
        key = runs or tuple(each.key for each in entry.derived) or (entry.row.name,)
        if key in first:
            place = first[key]
            kept[place] = dataclasses.replace(kept[place], same_as=(*kept[place].same_as, entry.row.name))
        else:
            first[key] = len(kept)
            kept.append(entry)
    return kept
