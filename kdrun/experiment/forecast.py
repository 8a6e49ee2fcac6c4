"""The time that is left for the runs of a command, from the time that its trained runs took."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from kdrun.experiment.sizes import size_of
from kdrun.spec.spec import Spec


class Forecast:
    """Predicts seconds from the MACs of a run's steps.

    A run takes as many seconds per MAC as the command's trained runs of its network, else as all its trained runs.

    Args:
        devices: number of groups that are trained at a time.

    Attributes:
        trained: the groups trained so far: their runs, each with its number of epochs, and the seconds that they took.
    """

    def __init__(self, devices: int = 1) -> None:
        self._devices = devices
        self._pending: dict[str, Spec] = {}
        self.trained: list[tuple[list[tuple[Spec, int]], float]] = []
        self._macs_per_epoch: dict[str, float] = {}

    def expect(self, spec: Spec) -> None:
        """Adds a run that is to be trained."""
        self._pending[spec.run_id] = spec

    def drop(self, specs: Iterable[Spec]) -> None:
        """Removes runs that have ended, and those before them, of which only failed ones are still pending."""
        for spec in specs:
            for each in (spec, *spec.all_before()):
                self._pending.pop(each.run_id, None)

    @contextlib.contextmanager
    def measured(self, runs: Sequence[tuple[Spec, Sequence[Any]]]) -> Iterator[None]:
        """A context that trains runs together and records what that took.

        Args:
            runs: each with its rows, to which each epoch adds one.
        """
        before, begun = [len(rows) for _, rows in runs], time.monotonic()
        yield
        trained = [(spec, len(rows) - done) for (spec, rows), done in zip(runs, before, strict=True)]
        self.trained.append((trained, time.monotonic() - begun))

    def left(self, under_way: Collection[str] = ()) -> float | None:
        """The seconds of the pending runs but those under way, which are given by their run_ids.

        None where no run is pending, or none was trained.
        """
        specs = [spec for run_id, spec in self._pending.items() if run_id not in under_way]
        if not specs:
            return None  # and no size of a network is computed
        seconds: defaultdict[str, float] = defaultdict(float)
        macs: defaultdict[str, float] = defaultdict(float)
        for runs, taken in self.trained:
            works = [epochs * self._work(spec) for spec, epochs in runs]
            for (spec, _), work in zip(runs, works, strict=True):
                seconds[spec.student.target] += taken * work / (sum(works) or 1)
                macs[spec.student.target] += work
        if not sum(macs.values()):
            return None
        mean = sum(seconds.values()) / sum(macs.values())
        rates = {network: seconds[network] / work for network, work in macs.items() if work}
        total = sum(spec.epochs_trained * self._work(spec) * rates.get(spec.student.target, mean) for spec in specs)
        return total / self._devices

    def _work(self, spec: Spec) -> float:
        """MACs of an epoch: the student's forward pass and two gradients, and its teachers' forward passes."""
        if spec.run_id not in self._macs_per_epoch:
            macs = 3 * size_of(spec.student, spec.dataset).macs
            macs += sum(size_of(teacher.student, teacher.dataset).macs for teacher in spec.teachers)
            self._macs_per_epoch[spec.run_id] = macs * spec.dataset.num_train_examples
        return self._macs_per_epoch[spec.run_id]
