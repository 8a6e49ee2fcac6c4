"""Evaluations of finished runs beside their results (`evaluation=[...]`), and the table of their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdrun.analysis.tables import evaluation_table
from kdrun.experiment.derived import EvaluatedRun, compute
from kdrun.experiment.evaluations import NamedEvaluation
from kdrun.experiment.runner import Runner
from kdrun.log import log
from kdrun.spec.spec import Spec


def evaluated(
    runner: Runner, specs: Mapping[str, Sequence[Spec]], evaluations: Sequence[NamedEvaluation]
) -> tuple[str, int]:
    """Evaluates finished runs, and logs the paths of the records.

    Args:
        runner: of the finished runs.
        specs: the runs by label; runs of one label differ in their seed.
        evaluations: evaluate each run.

    Returns:
        Markdown, a row for each label and evaluation; and the number of evaluations that failed, which are logged.
    """
    found: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    failed = 0
    for label, members in specs.items():
        for named in evaluations:
            for spec in members:
                derived, place = EvaluatedRun((spec,), named), f"{label} seed={spec.seed}: evaluation {named.name}"
                try:
                    figures = compute(derived, runner)["figures"]
                except (RuntimeError, OSError, ValueError) as error:
                    log.error("%s: %s", place, error)
                    failed += 1
                else:
                    found.setdefault((label, named.name), []).append(figures)
                    log.info("%s: %s", place, runner.store.find_derived(derived.key))
    return evaluation_table(found), failed
