"""The parts of a training: network, method and recipe, of a run or of its teacher."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kdrun.config.findings import Findings
from kdrun.config.schema import resolve_stage1_epochs, resolve_stop_epoch
from kdrun.experiment.build import (
    Method,
    build_method,
    build_student,
    check_batches,
    check_kind,
    check_labels,
    check_network,
    check_tasks,
    examined_method,
    offered,
    without_data,
)
from kdrun.log import counted
from kdrun.spec.components import asks_for, method_class, method_component, resolve, student_component
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.signature import construct
from kdrun.spec.spec import Component, Recipe, Spec

_FITTING: dict[tuple[object, ...], tuple[str, ...]] = {}
"""The notices of trials (see `_trial`) without problems: the jobs of a sweep repeat the same few."""


@dataclass(frozen=True)
class Parts:
    """A network and its training."""

    student: Component
    method: Component
    recipe: Recipe
    stop_epoch: int | None


def check_parts(
    findings: Findings, path: str, node: Mapping[str, Any], network: Any, dataset: DatasetSpec | None
) -> Parts | None:
    """Checks a network with its method, recipe and stop epoch.

    Args:
        findings: where problems go.
        path: where they stand: empty for the run's own, else `teacher.`.
        node: has `method`, `recipe` and `stop_epoch`.
        network: the network's `_target_` node.
        dataset: what its input and output must fit; None if it is faulty.
    """
    student_path = path.rstrip(".") or "student"
    student = findings.component(student_component, network, student_path)
    recipe = construct(Recipe, node.get("recipe"), f"{path}recipe", findings.problems)
    method = _method(findings, f"{path}method", node.get("method"), recipe)
    stage1_epochs = method.options.get("stage1_epochs", 0) if method else 0
    stop_epoch = recipe and findings.attempt(
        path, resolve_stop_epoch, node.get("stop_epoch"), recipe.epochs + stage1_epochs
    )
    if method and stop_epoch and stop_epoch <= stage1_epochs:
        findings.notices.append(
            f"{path}stop_epoch={stop_epoch}: within stage 1 of {method_class(method).name}, which has "
            f"{counted(stage1_epochs, 'epoch')}: the network has not seen stage 2"
        )
    if recipe and dataset:
        findings.attempt(f"{path}recipe.augmentation.", dataset.check_augmentation, recipe.augmentation)
    if student and dataset:
        findings.networks.append((student_path, student, dataset))
    if method is not None and not asks_for(method):
        findings.builds(f"{path}method.", build_method, method, torch.nn.Identity())
    return Parts(student, method, recipe, stop_epoch) if student and method and recipe else None


def check_networks(findings: Findings) -> bool:
    """Whether the networks fit their data: each is built, and two examples pass through it, without data."""
    fault_count = len(findings.problems)
    for path, network, dataset in findings.networks:
        _check_fits(findings, path, network, dataset)
    return len(findings.problems) == fault_count


def _check_fits(findings: Findings, path: str, student: Component, dataset: DatasetSpec) -> None:
    """A network that fits is tried once."""
    trial = _trial([student], dataset)
    if trial in _FITTING:
        return
    fault_count = len(findings.problems)
    findings.attempt(f"{path}=", check_kind, student, dataset)
    if len(findings.problems) > fault_count:
        return
    with without_data():  # constructors can refuse their options, at no cost
        fits = findings.builds(f"{path}.", build_student, student, dataset)
    if fits:
        findings.attempt(f"{path}: ", check_network, student, dataset)
    if len(findings.problems) == fault_count:
        _FITTING[trial] = ()


def _trial(components: Sequence[Component], *datasets: DatasetSpec) -> tuple[object, ...]:
    """Everything that a trial's outcome depends on: options, data, and the classes behind the names."""
    return repr((components, datasets)), *(resolve(component.target) for component in components)


def check_methods(findings: Findings, spec: Spec, path: str = "") -> None:
    """Builds the methods of a run and its teachers with their networks: taps and shapes must fit."""
    fault_count = len(findings.problems)
    findings.attempt("", check_tasks, spec, method_class(spec.method).needs)
    if len(findings.problems) > fault_count:
        return
    runs = (spec, *spec.teachers)
    trial = _trial([spec.method, *(each.student for each in runs)], *(each.dataset for each in runs))
    if asks_for(spec.method) and trial not in _FITTING:
        with without_data():
            given = offered(spec, torch.device("meta"))
            networks_at = {"student": path.rstrip(".") or "student", "teacher": f"{path}teacher"}
            method = (build_method, spec.method, torch.nn.Identity(), given)
            notices: tuple[str, ...] = ()
            if findings.builds(f"{path}method.", *method, elsewhere=networks_at):
                notices = build_method(spec.method, torch.nn.Identity(), given).notices
        if len(findings.problems) == fault_count:
            _FITTING[trial] = notices
    name = method_class(spec.method).name
    findings.notices += [f"{path}method={name}: {line}" for line in _FITTING.get(trial, ())]
    if len(findings.problems) == fault_count:
        _check_needs(findings, spec, path)
    for teacher in spec.teachers:  # of a chain, one has a method that the user chose: teacher.method
        check_methods(findings, teacher, "teacher.")


def _check_needs(findings: Findings, spec: Spec, path: str) -> None:
    """Checks what a method needs of teacher and batches, with its options."""
    method = examined_method(spec)
    needs = method.needs
    findings.attempt("", check_tasks, spec, needs)
    findings.attempt(path, check_batches, spec, needs)
    findings.attempt(f"{path}recipe.", check_labels, spec, method)
    if needs.views > 1 and not spec.recipe.augmentation.changes:
        findings.notices.append(
            f"method {method_class(spec.method).name} asks for {needs.views} views of each {spec.dataset.example}, "
            f"which are equal: {path}recipe.augmentation changes nothing"
        )


def _method(findings: Findings, path: str, node: Any, recipe: Recipe | None) -> Component | None:
    """Reads a method's node; the length of a first stage can be given as a multiple of the recipe's epochs."""
    kind = method_of_node(node)
    if kind is None:
        return findings.component(method_component, node, path)
    if kind.needs.assistant:  # a network, of which the teachers are made: none of the method's own options
        node = {name: value for name, value in node.items() if name != "assistant"}
    fault_count = len(findings.problems)
    if "stage1_epochs" in node and "stage1_epochs" in inspect.signature(kind).parameters:
        recipe_epochs = recipe.epochs if recipe else 1
        stage1_epochs = findings.attempt(f"{path}.", resolve_stage1_epochs, node["stage1_epochs"], recipe_epochs)
        node = {**node, "stage1_epochs": 1 if stage1_epochs is None else stage1_epochs}  # to find what else is wrong
    method = findings.component(method_component, node, path)
    return None if len(findings.problems) > fault_count else method


def method_of_node(node: Any) -> type[Method] | None:
    """The class that a method's node names; None where it names none, which `check_parts` reports."""
    try:
        return method_class(Component(node["_target_"]))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
