"""A run's teachers: how their specs follow from its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdrun.config.data_facts import OF_IMAGES, check_dataset, with_indices, without_classes
from kdrun.config.findings import Findings
from kdrun.config.parts import Parts, check_parts, method_of_node
from kdrun.config.schema import Selection, TeacherOptions
from kdrun.experiment.build import Method
from kdrun.experiment.datasets import PLACES, data_root
from kdrun.experiment.weights import own_weights
from kdrun.files import expanded
from kdrun.spec.components import all_options, method_class, student_component
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.signature import construct, without_defaults
from kdrun.spec.spec import Component, Spec

TEACHER_OPTIONS = tuple(option.name for option in dataclasses.fields(TeacherOptions))
UNTAUGHT = Component("kdrun.methods.CE")
"""The method of a teacher's own teacher, and of weights that nothing is trained for."""
OF_SEVERAL = {
    "several": "several teachers",
    "assistant": "an assistant that has a teacher",
    "generations": "its own generation before",
}
"""Needs of methods that cannot train a teacher, in words."""


@dataclass(frozen=True)
class Teaching:
    """How a run's teachers follow from its own spec.

    Attributes:
        parts: the teacher's network, method and recipe.
        networks: the teachers' networks, at least one.
        dataset: their training data: of the run's dataset, or of another.
        seeds: of the first network's teachers; None is the run's seed, or as many as the method takes. Others have one.
        own_teacher: the network of the teacher's own teacher, where its method needs one.
        assistant: the network between teacher and student (TAKD).
        weights: SHA-256 of the user's own weights, instead of a training.
    """

    parts: Parts
    networks: tuple[Component, ...]
    dataset: DatasetSpec
    seeds: tuple[int, ...] | None = None
    own_teacher: Component | None = None
    assistant: Component | None = None
    weights: str | None = None

    def teachers_of(self, own: Spec) -> tuple[Spec, ...]:
        """The teachers of a run."""
        generation = all_options(own.method).get("generation", 1)
        if method_class(own.method).needs.generations and generation > 1:
            options = {**own.method.options, "generation": generation - 1}
            method = dataclasses.replace(own.method, options=without_defaults(method_class(own.method), options))
            before = dataclasses.replace(own, method=method, stop_epoch=None)
            return (dataclasses.replace(before, teachers=self.teachers_of(before)),)
        first, *others = self.networks
        teachers = [self._teacher(own, first, seed) for seed in self._seeds(own)]
        teachers += [self._teacher(own, network, (self.seeds or (own.seed,))[0]) for network in others]
        if self.assistant is None:
            return tuple(teachers)
        kd = Component("kdrun.methods.KD", own.method.options, own.method.source)
        return (dataclasses.replace(own, student=self.assistant, method=kd, stop_epoch=None, teachers=tuple(teachers)),)

    def _seeds(self, own: Spec) -> tuple[int, ...]:
        if self.seeds is not None:
            return self.seeds
        count = all_options(own.method).get("num_teachers", 1)
        # Students of different seeds share no teacher: each of them has an ensemble of its own.
        return tuple(own.seed * count + number for number in range(count))

    def _teacher(self, own: Spec, network: Component, seed: int) -> Spec:
        if self.weights is not None:  # nothing is trained: recipe and seed are no part of the spec
            return Spec(self.dataset, network, UNTAUGHT, precision=own.precision, weights=self.weights)
        teacher = Spec(
            self.dataset,
            network,
            self.parts.method,
            self.parts.recipe,
            seed,
            own.precision,
            self.parts.stop_epoch,
            semantics=own.semantics,
        )
        if self.own_teacher is None:
            return teacher
        taught_by = dataclasses.replace(teacher, student=self.own_teacher, method=UNTAUGHT, stop_epoch=None)
        return dataclasses.replace(teacher, teachers=(taught_by,))


def taught_spec(findings: Findings, own: Spec, teaching: Teaching, *, starts: bool) -> Spec:
    """A run with its teachers; the `num_teachers` of a method of several is their number, however they are given.

    Args:
        findings: where problems go.
        own: the run.
        teaching: how its teachers follow from it.
        starts: whether it begins with the weights of its (first) teacher.
    """
    teachers = teaching.teachers_of(own)
    if starts:
        own = _started(findings, own, teachers[0])
    if len({teacher.run_id for teacher in teachers}) < len(teachers):
        findings.problems.append("teacher: the same teacher is given twice; see teacher.seeds and teacher.also")
    method = method_class(own.method)
    if method.needs.several and "num_teachers" in all_options(own.method):
        options = without_defaults(method, {**own.method.options, "num_teachers": len(teachers)})
        own = dataclasses.replace(own, method=dataclasses.replace(own.method, options=options))
    return dataclasses.replace(own, teachers=teachers if method.needs.teacher else ())


def _started(findings: Findings, own: Spec, teacher: Spec) -> Spec:
    """A run that begins with its teacher's weights, which must fit."""
    if teacher.student != own.student:
        findings.problems.append(
            f"start=teacher: the student must be the teacher's network, and they are {own.student.name} and "
            f"{teacher.student.name}{' with other options' if own.student.name == teacher.student.name else ''}: give "
            "teacher= what student= has"
        )
    elif not teacher.dataset.same_task(own.dataset):
        findings.problems.append(f"start=teacher: the teacher must be trained on {own.dataset.name} like the student")
    return dataclasses.replace(own, start=teacher)


def check_teaching(
    findings: Findings, node: Mapping[str, Any], dataset: DatasetSpec | None, *, starts: bool
) -> Teaching | None:
    """Checks the teachers that the method needs, or a student that begins with their weights.

    Unused ones are a notice, and None is returned.
    """
    method = method_of_node(node.get("method"))
    if method is None:  # reported before
        return None
    if not starts:
        _tell_unused(findings, method)
    if not method.needs.teacher and not starts:
        return None
    named = node.get("teacher")
    if not isinstance(named, Mapping):
        findings.problems.append(f"teacher={named!r}: must be a group option")
        return None
    own = {name: value for name, value in named.items() if name in TEACHER_OPTIONS}
    network: Any = {name: value for name, value in named.items() if name not in TEACHER_OPTIONS}
    if method.needs.own_architecture:
        network = node.get("student")
    elif not network:
        who, instead = f"method {method.name}", "another method"
        if not method.needs.teacher:
            who, instead = "start=teacher", "start=null"
        findings.problems.append(f"teacher=none: {who} needs one: teacher=OPTION, or {instead}")
        return None
    whole = _dataset(findings, node, own.get("trained_on"), dataset)
    if whole and isinstance(own.get("dataset"), Mapping):
        own["dataset"] = _by_index(findings, node, own)
    options = construct(TeacherOptions, own, "teacher", findings.problems)
    parts = check_parts(findings, "teacher.", own, network, whole)
    others = _others(findings, method, options, whole) if options else []
    trained_on = options and whole and findings.attempt("teacher.dataset.", _selected, whole, options.dataset)
    if not (options and parts and trained_on):
        return None
    teaching = Teaching(parts, (parts.student, *others), trained_on, options.seeds)
    if method.needs.assistant:
        assistant = _network(findings, "method.assistant", node["method"].get("assistant"), dataset)
        if assistant == parts.student:
            findings.notices.append(
                f"method.assistant={assistant.name}: the network of the teacher, too; an assistant is meant to be of a "
                "size between teacher and student"
            )
        teaching = dataclasses.replace(teaching, assistant=assistant)
    if options.checkpoint is not None:
        return dataclasses.replace(teaching, weights=_own_weights(findings, options.checkpoint, parts, trained_on))
    return dataclasses.replace(teaching, own_teacher=_own_teacher(findings, options, parts, trained_on))


def _dataset(
    findings: Findings, node: Mapping[str, Any], trained_on: Any, dataset: DatasetSpec | None
) -> DatasetSpec | None:
    """The teachers' dataset: the run's, or another in the same root."""
    if trained_on is None:
        return dataset
    theirs, run = _dataset_node(node, trained_on), node.get("dataset")
    if isinstance(theirs, Mapping) and isinstance(run, Mapping):
        others = [f"{name}={theirs[name]}" for name in PLACES if theirs.get(name) not in (None, run.get(name))]
        if others:
            findings.problems.append(
                f"teacher.trained_on: {', '.join(others)}: must be as for dataset: a command reads from one place"
            )
            return None
    return check_dataset(findings, theirs, "teacher.trained_on")


def _dataset_node(node: Mapping[str, Any], trained_on: Any) -> Any:
    """The config of the teachers' dataset, in the same root unless it names another."""
    run = node.get("dataset")
    if isinstance(trained_on, Mapping):
        return {"root": run.get("root") if isinstance(run, Mapping) else None, **trained_on}
    return run if trained_on is None else trained_on


def _by_index(findings: Findings, node: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """The teachers' choice of classes, by index; without it where a name is of no class."""
    source, selection = _dataset_node(node, own.get("trained_on")), own["dataset"]
    try:
        found = findings.attempt("teacher.dataset.", with_indices, selection, source, data_root(source))
    except RuntimeError as error:
        findings.problems.append(f"teacher.dataset: {error}")
        found = None
    return {**selection, **dict.fromkeys(OF_IMAGES)} if found is None else found


def _others(
    findings: Findings, method: type[Method], options: TeacherOptions, dataset: DatasetSpec | None
) -> list[Component]:
    """The networks of further teachers; a method of one teacher takes none, and one seed."""
    if not method.needs.several:
        if options.seeds is not None and len(options.seeds) > 1:
            findings.problems.append(f"teacher.seeds={list(options.seeds)}: method {method.name} takes one teacher")
        if options.also:
            findings.problems.append(f"teacher.also={sorted(options.also)}: method {method.name} takes one teacher")
        return []
    if options.seeds is not None and any(text.startswith("method.num_teachers=") for text in findings.overrides):
        findings.problems.append(f"teacher.seeds={list(options.seeds)}: says how many; leave method.num_teachers out")
    found = [_network(findings, f"teacher.also.{name}", node, dataset) for name, node in options.also.items()]
    return [network for network in found if network is not None]


def _own_teacher(findings: Findings, options: TeacherOptions, parts: Parts, dataset: DatasetSpec) -> Component | None:
    """The network that teaches the teacher, where the teacher's method needs one."""
    taught = method_class(parts.method)
    if not taught.needs.teacher:
        if options.teacher is not None:
            findings.notices.append(f"teacher.method={taught.name} needs no teacher: teacher.teacher is not used")
        return None
    unfit = [words for need, words in OF_SEVERAL.items() if getattr(taught.needs, need)]
    if unfit:
        findings.problems.append(
            f"teacher.method={taught.name}: must be a method without a teacher, or of one teacher (teacher.teacher); "
            f"with {taught.name} a network learns from {unfit[0]}"
        )
        return None
    if taught.needs.own_architecture:
        return parts.student
    if options.teacher is None:
        findings.problems.append(
            f"teacher.method={taught.name}: the teacher needs one of its own: teacher.teacher=OPTION, or another "
            "method, such as teacher.method=ce"
        )
        return None
    return _network(findings, "teacher.teacher", options.teacher, dataset)


def _network(findings: Findings, path: str, node: Any, dataset: DatasetSpec | None) -> Component | None:
    """A network that stands alone in the config, checked."""
    network = findings.component(student_component, node, path)
    if network is not None and dataset is not None:
        findings.networks.append((path, network, dataset))
    return network


def _tell_unused(findings: Findings, method: type[Method]) -> None:
    """A notice for typed options of a teacher that have no effect."""
    if method.needs.own_architecture:
        why, unused = "is taught by the student's own architecture", "teacher="
    elif not method.needs.teacher:
        why, unused = "has no use for a teacher", "teacher"
    else:
        return
    typed = [text for text in findings.overrides if text.startswith(unused) and text != "teacher=none"]
    if typed:
        findings.leave_aside(f"method {method.name} {why}", typed)


def _own_weights(findings: Findings, checkpoint: str, parts: Parts, dataset: DatasetSpec) -> str | None:
    """The SHA-256 of a file with the user's own weights of the teacher."""
    try:
        path = expanded(checkpoint)
        own = own_weights(path, parts.student, dataset)
    except OSError as error:
        findings.problems.append(f"teacher.checkpoint={checkpoint}: {error.strerror}")
        return None
    except RuntimeError as error:
        findings.problems.append(f"teacher.checkpoint: {error}")
        return None
    aside = ("stop_epoch", "method", "recipe", "seeds", "dataset", "teacher", "also")
    unused = [text for text in findings.overrides if text.startswith(tuple(f"teacher.{name}" for name in aside))]
    if unused:
        findings.leave_aside("teacher.checkpoint is taken as it is", unused)
    findings.notices += [f"teacher.checkpoint={path}: {notice}" for notice in own.notices]
    findings.weight_files[own.digest] = path
    return own.digest


def _selected(dataset: DatasetSpec, selection: Selection) -> DatasetSpec:
    """The dataset with another selection of its training images.

    Raises:
        ValueError: a fraction or class out of range.
    """
    chosen = dataset.selected(selection.train_fraction, selection.val_fraction, selection.classes)
    return without_classes(chosen, selection.drop_classes)
