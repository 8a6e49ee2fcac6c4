"""From names in the config group `evaluation` to the objects that evaluate finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from kdrun.config.compose import EVALUATION, search_path
from kdrun.config.composition import COMPOSE_ERRORS, compose_config, group_options
from kdrun.config.findings import Findings
from kdrun.spec.components import component, resolve
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.signature import unknown
from kdrun.spec.spec import Component

if TYPE_CHECKING:
    from kdrun.experiment.evaluations import Evaluation, NamedEvaluation


def read_evaluations(findings: Findings, nodes: Mapping[str, Any]) -> tuple[NamedEvaluation, ...]:
    """The evaluations of a config; a faulty one is a problem and is left out.

    Args:
        findings: where problems go.
        nodes: `_target_` nodes by the evaluations' names.
    """
    if not nodes:
        return ()
    from kdrun.experiment.evaluations import NamedEvaluation

    found = []
    for name, node in nodes.items():
        made = findings.component(_evaluation_component, node, f"{EVALUATION}.{name}")
        if made is not None and findings.builds(f"{EVALUATION}.{name}.", _build, made):
            found.append(NamedEvaluation(name, _build(made), made))
    return tuple(found)


def unfit(found: Sequence[NamedEvaluation], dataset: DatasetSpec) -> list[str]:
    """A problem for each evaluation that is not for runs on a dataset."""
    return [
        f"{each.name}: is of {each.evaluation.of}, not of {dataset.name} ({dataset.example}s)"
        for each in found
        if not each.evaluation.fits(dataset)
    ]


def evaluations_of_table(
    names: Sequence[str], problems: list[str], *, extra: Path | None
) -> tuple[NamedEvaluation, ...]:
    """The evaluations that a table names; within a session.

    Args:
        names: options of the group.
        problems: a line is added for each that does not exist or cannot be built.
        extra: a config tree of the user's own.
    """
    path = search_path(extra)
    allowed = group_options(EVALUATION, path)
    problems += [f"evaluations: {name}: {unknown(name, allowed, 'option')}" for name in names if name not in allowed]
    chosen = [f"+{EVALUATION}@{EVALUATION}.{name}={name}" for name in dict.fromkeys(names) if name in allowed]
    if not chosen:
        return ()
    try:
        nodes: Any = OmegaConf.to_container(compose_config([*path, *chosen])[EVALUATION], resolve=True)
    except COMPOSE_ERRORS as error:
        problems.append(f"evaluations: {' '.join(str(error).split())}")
        return ()
    findings = Findings(())
    found = read_evaluations(findings, nodes)
    problems += findings.problems
    return found


def _evaluation_component(node: Any, path: str, problems: list[str]) -> Component | None:
    from kdrun.experiment.evaluations import Evaluation

    return component(node, path, problems, injected=(), kind=Evaluation)


def _build(made: Component) -> Evaluation:
    built: Evaluation = resolve(made.target)(**made.options)
    return built
