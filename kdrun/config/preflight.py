"""From a composed config to a checked spec: every problem is found before the first byte is written."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdrun.config.compose import ConfigError
from kdrun.config.schema import RootOptions, RuntimeOptions, TeacherOptions, resolve_stop_epoch
from kdrun.experiment.build import (
    build_method,
    build_student,
    data_root,
    describe_dataset,
    method_class,
    method_component,
    own_weights,
    resolve_device,
    resolve_precision,
    student_component,
)
from kdrun.experiment.signature import construct
from kdrun.experiment.spec import Component, DatasetSpec, Recipe, Spec

TEACHER_OPTIONS = ("seeds", "stop_epoch", "checkpoint", "recipe", "method")
DATASET_OWN = ("_target_", "root")
EMBEDDED = "digits"
EMBEDDED_NOTICE = (
    "dataset=digits: the 1,797 small digits that come with kdrun; for the real thing: dataset=cifar100 (or mnist, ...)"
)
SECRET = re.compile("token|secret|password|api_?key|credential", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """One checked run.

    Attributes:
        spec: what to run.
        overrides: what the user typed for it.
        config: the composed config as YAML, secrets masked.
        output_root: where runs are written.
        data_root: where datasets lie.
        device: where to compute.
        threads: CPU threads; None chooses.
        weight_files: files with the user's own weights, by SHA-256.
        notices: what the user should know, one line each.
    """

    spec: Spec
    overrides: tuple[str, ...]
    config: str
    output_root: Path
    data_root: Path
    device: torch.device
    threads: int | None = None
    weight_files: Mapping[str, Path] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def check_job(config: DictConfig, overrides: Sequence[str] = ()) -> Job:
    """Checks a composed config whole and returns the job it describes.

    Args:
        config: as Hydra composed it.
        overrides: what the user typed, to tell a teacher that was asked for from the default one.

    Raises:
        ConfigError: with one line for every problem.
    """
    problems: list[str] = []
    check = _Check(config, tuple(overrides), problems)
    job = check.job()
    if problems or job is None:
        raise ConfigError(problems)
    return job


class _Check:
    """One walk over a config, collecting problems."""

    def __init__(self, config: DictConfig, overrides: tuple[str, ...], problems: list[str]) -> None:
        self.overrides = overrides
        self.problems = problems
        self.notices: list[str] = []
        self.weight_files: dict[str, Path] = {}
        self.config = config

    def job(self) -> Job | None:
        node = self._resolved()
        root = construct(RootOptions, node, "", self.problems) if node else None
        if root is None:
            return None
        runtime = construct(RuntimeOptions, root.runtime, "runtime", self.problems)
        device = self._attempt("runtime.device=", resolve_device, runtime.device) if runtime else None
        precision = device and self._attempt("runtime.precision=", resolve_precision, runtime.precision, device)
        dataset = self._dataset(root.dataset)
        recipe = construct(Recipe, root.recipe, "recipe", self.problems)
        student = student_component(root.student, "student", self.problems)
        method = method_component(root.method, "method", self.problems)
        stop_epoch = self._attempt("", resolve_stop_epoch, root.stop_epoch, recipe.epochs) if recipe else None
        self._try_building("student", student, method, dataset)
        if not (dataset and student and method and recipe and precision and runtime and device):
            return None
        own = Spec(dataset, student, method, recipe, seed=root.seed, precision=precision, stop_epoch=stop_epoch)
        if dataset.name == EMBEDDED:
            self.notices.append(EMBEDDED_NOTICE)
        spec = self._with_teachers(own, root.teacher)
        return Job(
            spec=spec,
            overrides=self.overrides,
            config=masked_yaml(self.config),
            output_root=Path(runtime.output_root),
            data_root=data_root(root.dataset.get("root")),
            device=device,
            threads=runtime.threads,
            weight_files=self.weight_files,
            notices=tuple(self.notices),
        )

    def _resolved(self) -> dict[str, Any] | None:
        try:
            missing = sorted(OmegaConf.missing_keys(self.config))
            node: Any = OmegaConf.to_container(self.config, resolve=True)
        except OmegaConfBaseException as error:  # an interpolation that leads nowhere, or to a missing value
            self.problems.append("; ".join(str(error).split("\n")[:2]))
            return None
        self.problems.extend(f"{key}: must be given: {key}=VALUE" for key in missing)
        return None if missing else node

    def _attempt(self, prefix: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function; what it refuses becomes a problem, each of its lines behind `prefix`."""
        try:
            return function(*arguments)
        except ValueError as error:
            self.problems.extend(prefix + line for line in str(error).splitlines())
            return None

    def _dataset(self, node: Any) -> DatasetSpec | None:
        if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
            self.problems.append(f"dataset: must be a group option or a mapping with a _target_, not {node!r}")
            return None
        if not isinstance(node.get("root"), str | None):
            self.problems.append(f"dataset.root={node['root']!r}: must be text or null")
            return None
        try:
            found = describe_dataset(node, data_root(node.get("root")))
        except (ValueError, RuntimeError) as error:
            self.problems.append(f"dataset: {error}")
            return None
        values = {name: value for name, value in found.items() if name not in DATASET_OWN}
        dataset: DatasetSpec | None = construct(
            DatasetSpec, {"target": node["_target_"], **values}, "dataset", self.problems
        )
        return dataset

    def _try_building(
        self, path: str, student: Component | None, method: Component | None, dataset: DatasetSpec | None
    ) -> None:
        """Builds on the meta device, without memory or time, so constructors can refuse their options."""
        method_path = "method" if path == "student" else f"{path}.method"
        with torch.device("meta"):
            network = self._attempt(f"{path}.", build_student, student, dataset) if student and dataset else None
            if method:
                self._attempt(f"{method_path}.", build_method, method, network or torch.nn.Identity())

    def _with_teachers(self, own: Spec, node: Any) -> Spec:
        """Adds the teachers that the method asks for; one it has no use for is a notice."""
        needs = method_class(own.method).needs
        name = method_class(own.method).name
        chosen = next((text for text in self.overrides if text.startswith(("teacher=", "teacher@"))), None)
        if not needs.teacher:
            if chosen and chosen not in ("teacher=null", "teacher=none"):
                self.notices.append(f"method {name} has no use for a teacher: {chosen} is left aside")
            return own
        if needs.own_architecture and chosen:
            self.notices.append(f"method {name} is taught by the student's own architecture: {chosen} is left aside")
        options, network = self._teacher_options(node)
        student = own.student if needs.own_architecture else network
        if options is None:
            return own
        if student is None:
            if "_target_" not in node:
                self.problems.append(f"teacher: method {name} needs one: choose teacher=OPTION, or a method without")
            return own
        seeds = options.seeds if options.seeds is not None else (own.seed,)
        if len(seeds) != 1:
            self.problems.append(f"teacher.seeds={list(seeds)}: method {name} takes one teacher")
        teacher = self._teacher(own, student, options, seeds[0])
        return dataclasses.replace(own, teachers=(teacher,)) if teacher else own

    def _teacher_options(self, node: Any) -> tuple[TeacherOptions | None, Component | None]:
        """The teacher node's own options, and its network where it names one."""
        if not isinstance(node, Mapping):
            self.problems.append(f"teacher={node!r}: must be a group option")
            return None, None
        own = {name: value for name, value in node.items() if name in TEACHER_OPTIONS}
        rest = {name: value for name, value in node.items() if name not in TEACHER_OPTIONS}
        options = construct(TeacherOptions, own, "teacher", self.problems)
        network = student_component(rest, "teacher", self.problems) if rest else None
        return options, network

    def _teacher(self, own: Spec, student: Component, options: TeacherOptions, seed: int) -> Spec | None:
        """A teacher's spec: its own recipe and method, the run's dataset and precision."""
        recipe = construct(Recipe, options.recipe, "teacher.recipe", self.problems)
        method = method_component(options.method, "teacher.method", self.problems)
        self._try_building("teacher", student, method, own.dataset)
        if recipe is None or method is None:
            return None
        if method_class(method).needs.teacher:
            self.problems.append(f"teacher.method={method_class(method).name}: must be a method without a teacher")
        if options.checkpoint is not None:
            digest = self._own_weights(Path(options.checkpoint).expanduser(), student, own.dataset)
            given = Component("kdrun.methods.CE")  # never used: nothing is trained
            return Spec(own.dataset, student, given, precision=own.precision, weights=digest) if digest else None
        stop_epoch = self._attempt("teacher.", resolve_stop_epoch, options.stop_epoch, recipe.epochs)
        return Spec(own.dataset, student, method, recipe, seed=seed, precision=own.precision, stop_epoch=stop_epoch)

    def _own_weights(self, path: Path, student: Component, dataset: DatasetSpec) -> str | None:
        try:
            digest = own_weights(path, student, dataset)
        except (OSError, RuntimeError) as error:
            self.problems.append(f"teacher.checkpoint={path}: {error}")
            return None
        self.weight_files[digest] = path
        return digest


def masked_yaml(config: DictConfig) -> str:
    """The composed config as YAML, interpolations unresolved, values of secret-looking keys masked."""
    return OmegaConf.to_yaml(OmegaConf.create(_masked(OmegaConf.to_container(config, resolve=False))))


def _masked(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: "***" if SECRET.search(str(key)) else _masked(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_masked(item) for item in node]
    return node
