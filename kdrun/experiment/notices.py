"""Notices before a run: finished runs that are equal but for code or semantics, and weak teachers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from kdrun.log import log
from kdrun.spec.own_code import changes
from kdrun.spec.spec import Spec
from kdrun.store.result import describe
from kdrun.store.run import Run
from kdrun.store.store import Store

CHANCE_ERRORS = 3
"""Standard errors above chance that a teacher's accuracy on the test set must have."""


def equal_runs(run: Run, store: Store) -> Iterator[str]:
    """A notice for each finished run that differs from a never started one only in its semantics or its code."""
    if run.last_checkpoint.exists():
        return
    older = store.find_older(run.spec)
    if older is not None and (notice := _of_older_semantics(run, older)):
        yield notice
    other = store.of_other_source(run.spec)
    if other is not None:
        what = ", ".join(changes(other.spec.sources(), run.spec.sources()))
        yield f"a new run; {other.directory} is equal except for its code: {what}"


def _of_older_semantics(run: Run, older: Run) -> str | None:
    """The options in which an older run's method differs; None, and a warning, where its result is damaged."""
    try:
        result = older.result()
    except RuntimeError as error:
        log.warning("%s; it is of an older semantics", error, extra={"run": run.spec.run_id})
        return None
    method = describe(run.spec, [])["method"]
    differences = [
        f"method.{name} was {value}, is {method.get(name)}"
        for name, value in result["method"].items()
        if value != method.get(name)
    ]
    return (
        f"a result of semantics {older.spec.semantics}, {result['test']['last']['top1']:.2f} % top-1, is in "
        f"{older.directory}; trained anew under semantics {run.spec.semantics}"
        + (f" ({'; '.join(differences)})" if differences else "")
    )


def weakness(teacher: Run, students: Sequence[Spec], store: Store) -> str | None:
    """Why a teacher's accuracy is too low to help, in words; None where it is not.

    It is not clear of chance, `1/K + 3 sqrt((1/K) (1 - 1/K) / n)` on n test labels, or not above the last known
    accuracy that a student has by cross-entropy. Students of another task are left out, and a student whose training
    the teacher repeats is not compared.
    """
    students = [student for student in students if student.dataset.same_task(teacher.spec.dataset)]
    if not students:
        return None
    top1 = teacher.result()["test"]["last"]["top1"]
    chance = 1 / len(teacher.spec.dataset.outputs)
    error = math.sqrt(chance * (1 - chance) / teacher.spec.dataset.num_test_labels)
    if top1 <= 100 * (chance + CHANCE_ERRORS * error):
        return f"its test top-1, {top1:.2f} %, is not clear of chance ({100 * chance:.2f} ± {100 * error:.2f} %)"
    for student in students:
        alone = store.last_by_labels(student)
        if alone is None or dataclasses.replace(teacher.spec, seed=alone.spec.seed) == alone.spec:
            continue
        its = alone.result()["test"]["last"]["top1"]
        if top1 <= its:
            return (
                f"its test top-1, {top1:.2f} %, is not above that of its student {student.student.name} by "
                f"cross-entropy, {its:.2f} % ({alone.directory})"
            )
    return None
