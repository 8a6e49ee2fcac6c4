"""What finished runs are asked beside their results (`evaluation=[...]`), and the table of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdrun.analysis.evaluations import evaluation_table
from kdrun.experiment.derived import Evaluation, compute
from kdrun.experiment.runner import Runner
from kdrun.log import log
from kdrun.spec.spec import Spec


def evaluated(runner: Runner, specs: Mapping[str, Sequence[Spec]], names: Sequence[str]) -> tuple[str, int]:
    """Asks finished runs, and tells where the answers lie.

    Args:
        runner: has the runs.
        specs: of the runs, by what tells them apart from others; those of one label differ in their seed.
        names: of the evaluations.

    Returns:
        Markdown, a row for each label and evaluation; and how many questions could not be answered, which is told.
    """
    found: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    failed = 0
    for label, members in specs.items():
        for name in names:
            for spec in members:
                asked, told = Evaluation((spec,), name), f"{label} seed={spec.seed}: evaluation {name}"
                try:
                    figures = compute(asked, runner)["figures"]
                except (RuntimeError, OSError, ValueError) as error:
                    log.error("%s: %s", told, error)
                    failed += 1
                else:
                    found.setdefault((label, name), []).append(figures)
                    log.info("%s: %s", told, runner.store.find_derived(asked.key))
    return evaluation_table(found), failed
