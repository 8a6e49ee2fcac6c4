"""From a composed config to a checked job: every problem is found before the first byte is written."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdrun.config.compose import ConfigError
from kdrun.config.data_facts import describe, few_images, not_following
from kdrun.config.schema import RootOptions, RuntimeOptions, Selection, TeacherOptions, check_seeds, resolve_stop_epoch
from kdrun.config.secrets import masked_yaml, without_secrets
from kdrun.experiment.build import (
    Method,
    build_method,
    build_student,
    check_network,
    data_root,
    method_class,
    method_component,
    own_weights,
    resolve_device,
    resolve_precision,
    student_component,
)
from kdrun.experiment.runtime import Runtime
from kdrun.experiment.signature import bind, construct
from kdrun.experiment.spec import Component, DatasetSpec, Recipe, Spec

TEACHER_OPTIONS = tuple(option.name for option in dataclasses.fields(TeacherOptions))
EMBEDDED = "digits"
EMBEDDED_NOTICE = (
    "dataset=digits: the 1,797 small digits that come with kdrun; for the real thing: dataset=cifar100 (or mnist, ...)"
)


@dataclass(frozen=True)
class Job:
    """One checked run.

    Attributes:
        spec: what to run.
        config: the composed config as YAML, secrets masked; None for a run that follows from another's spec.
        runtime: where and how to compute.
        weight_files: files with the user's own weights, by SHA-256.
        notices: what the user should know, one line each.
    """

    spec: Spec
    config: str | None
    runtime: Runtime
    weight_files: Mapping[str, Path] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def check_job(config: DictConfig, overrides: Sequence[str] = (), fitting: set[str] | None = None) -> Job:
    """Checks a composed config whole and returns the job it describes.

    Args:
        config: as Hydra composed it.
        overrides: what the user typed, to tell a teacher that was asked for from the default one.
        fitting: networks that were found to fit their dataset; shared by the jobs of one command, it spares them
            the trial of the same network again and again.

    Raises:
        ConfigError: with one line for every problem.
    """
    check = _Check(overrides, fitting if fitting is not None else set())
    job = check.job(config)
    if check.problems or job is None:
        raise ConfigError(_without_followers(check.problems))
    return job


def _without_followers(problems: Sequence[str]) -> list[str]:
    """Leaves out what is wrong with a teacher's recipe only because it follows the run's."""
    known = set(problems)
    return [
        text for text in problems if not (text.startswith("teacher.recipe") and text.removeprefix("teacher.") in known)
    ]


@dataclass(frozen=True)
class _Parts:
    """What a network and its training are made of: those of the run, or of a teacher."""

    student: Component
    method: Component
    recipe: Recipe
    stop_epoch: int | None


class _Check:
    """One walk over a config, collecting problems and notices."""

    def __init__(self, overrides: Sequence[str], fitting: set[str]) -> None:
        self.problems: list[str] = []
        self.notices: list[str] = []
        self._weight_files: dict[str, Path] = {}
        self._overrides = tuple(overrides)
        self._fitting = fitting

    def job(self, config: DictConfig) -> Job | None:
        node = self._resolved(config)
        if node is None:
            return None
        root = bind(RootOptions, node, "", self.problems)
        seed = root.get("seed", RootOptions.seed)
        self._attempt("seed=", check_seeds, [seed])
        runtime = construct(RuntimeOptions, node.get("runtime"), "runtime", self.problems)
        if runtime:
            self._attempt(f"runtime.output_root={runtime.output_root}: ", _check_directory, runtime.output_root)
        device = runtime and self._attempt("runtime.device=", resolve_device, runtime.device)
        if runtime and device and runtime.cuda_graphs == "on" and device.type != "cuda":
            self.problems.append(
                f"runtime.cuda_graphs=on: graphs are captured on CUDA devices only, not on {device.type}"
            )
        if runtime and device and runtime.compile == "on" and device.type == "cpu" and not _has_compiler():
            self.problems.append("runtime.compile=on: needs a C++ compiler: $CXX, g++ or clang++ on the PATH")
        precision = device and self._attempt("runtime.precision=", resolve_precision, runtime.precision, device)
        dataset = self._dataset(node.get("dataset"))
        parts = self._parts("", node, node.get("student"), dataset)
        teacher = self._teacher(node, dataset)
        if self.problems or not (runtime and device and precision and dataset and parts):
            return None
        if dataset.name == EMBEDDED:
            self.notices.insert(0, EMBEDDED_NOTICE)
        own = Spec(dataset, **_fields(parts), seed=seed, precision=precision)
        spec = dataclasses.replace(own, teachers=() if teacher is None else (teacher(own),))
        self.notices += few_images("", spec)
        for each in spec.teachers:
            self.notices += few_images("teacher.", each)
        return Job(
            spec=spec,
            config=masked_yaml(config),
            runtime=_runtime(runtime, device, data_root(node["dataset"].get("root"))),
            weight_files=self._weight_files,
            notices=tuple(self.notices),
        )

    def _resolved(self, config: DictConfig) -> dict[str, Any] | None:
        """The config as plain values."""
        try:
            missing = sorted(OmegaConf.missing_keys(config))
            node: Any = OmegaConf.to_container(config, resolve=True)
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

    def _builds(self, prefix: str, build: Callable[..., Any], component: Component, *others: Any) -> bool:
        """Whether a component can be built; each option that its constructor refuses is a problem."""
        options = dict(component.options)
        while True:
            try:
                build(dataclasses.replace(component, options=options), *others)
                return options == component.options
            except ValueError as error:
                self.problems.extend(prefix + line for line in str(error).splitlines())
                refused = str(error).partition("=")[0]
                if options.pop(refused, None) is None:
                    return False
            except Exception as error:  # whatever the user's own code raises
                self.problems.append(f"{prefix}_target_={component.target}: {type(error).__name__}: {error}")
                return False

    def _dataset(self, node: Any) -> DatasetSpec | None:
        """The dataset's identity and shape; data is touched only where the config leaves them open."""
        if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
            self.problems.append(f"dataset: must be a group option or a mapping with a _target_, not {node!r}")
            return None
        root = node.get("root")
        if not isinstance(root, str | None):
            self.problems.append(f"dataset.root={root!r}: must be text or null")
            return None
        refused: list[str] = []
        try:
            found = describe(node, data_root(root), self._overrides, refused)
        except (ValueError, RuntimeError) as error:
            self.problems.append(f"dataset: {error}")
            return None
        except Exception as error:  # whatever the user's own loader raises
            self.problems.append(f"dataset._target_={node['_target_']}: {type(error).__name__}: {error}")
            return None
        values = {name: value for name, value in found.items() if name not in ("_target_", "root")}
        others: list[str] = []
        dataset: DatasetSpec | None = construct(DatasetSpec, {"target": node["_target_"], **values}, "dataset", others)
        self.problems += [*refused, *not_following(refused, others)]
        return None if refused else dataset

    def _parts(self, path: str, node: Mapping[str, Any], network: Any, dataset: DatasetSpec | None) -> _Parts | None:
        """Checks a network with its method, recipe and stop epoch.

        Args:
            path: where they stand: empty for the run's own, else `teacher.`.
            node: has `method`, `recipe` and `stop_epoch`.
            network: the network's `_target_` node.
            dataset: what its input and output must fit; None where that could not be told.
        """
        student_path = path.rstrip(".") or "student"
        student = self._component(student_component, network, student_path)
        method = self._component(method_component, node.get("method"), f"{path}method")
        recipe = construct(Recipe, node.get("recipe"), f"{path}recipe", self.problems)
        stop_epoch = recipe and self._attempt(path, resolve_stop_epoch, node.get("stop_epoch"), recipe.epochs)
        if recipe and dataset and recipe.augmentation.crop_padding >= dataset.image_size:
            self.problems.append(
                f"{path}recipe.augmentation.crop_padding={recipe.augmentation.crop_padding}: must be smaller than the "
                f"images, which are {dataset.image_size} x {dataset.image_size} pixels"
            )
        if student and dataset:
            self._check_network(student_path, student, dataset)
        if method is not None:
            self._builds(f"{path}method.", build_method, method, torch.nn.Identity())
        return _Parts(student, method, recipe, stop_epoch) if student and method and recipe else None

    def _component(self, read: Callable[..., Component | None], node: Any, path: str) -> Component | None:
        """Reads a `_target_` node; of options that look like secrets only the names are told."""
        told: list[str] = []
        found = read(node, path, told)
        secrets, told = without_secrets(node, path, told)
        self.problems += [*secrets, *told]
        return None if secrets else found

    def _check_network(self, path: str, student: Component, dataset: DatasetSpec) -> None:
        """Builds a network and sends two images through it, without data; once for all the jobs of a command."""
        which = repr((student, dataset))
        if which in self._fitting:
            return
        fault_count = len(self.problems)
        with torch.device("meta"):  # constructors can refuse their options, at no cost
            fits = self._builds(f"{path}.", build_student, student, dataset)
        if fits:
            self._attempt(f"{path}: ", check_network, student, dataset)
        if len(self.problems) == fault_count:
            self._fitting.add(which)

    def _teacher(self, node: Mapping[str, Any], dataset: DatasetSpec | None) -> Callable[[Spec], Spec] | None:
        """Checks the teacher the method asks for, and returns how its spec follows from the run's.

        One that the method has no use for is a notice, and None is returned.
        """
        try:
            method = method_class(Component(node["method"]["_target_"]))
        except (AttributeError, KeyError, TypeError, ValueError):  # told before
            return None
        self._tell_unused(method)
        if not method.needs.teacher:
            return None
        named = node.get("teacher")
        if not isinstance(named, Mapping):
            self.problems.append(f"teacher={named!r}: must be a group option")
            return None
        own = {name: value for name, value in named.items() if name in TEACHER_OPTIONS}
        network: Any = {name: value for name, value in named.items() if name not in TEACHER_OPTIONS}
        if method.needs.own_architecture:
            network = node.get("student")
        elif not network:
            self.problems.append(f"teacher=none: method {method.name} needs one: teacher=OPTION, or another method")
            return None
        options = construct(TeacherOptions, own, "teacher", self.problems)
        if options and options.seeds is not None and len(options.seeds) > 1:
            self.problems.append(f"teacher.seeds={list(options.seeds)}: method {method.name} takes one teacher")
        parts = self._parts("teacher.", own, network, dataset)
        trained_on = options and dataset and self._attempt("teacher.dataset.", _selected, dataset, options.dataset)
        return self._teacher_spec(options, parts, trained_on) if options and parts and trained_on else None

    def _tell_unused(self, method: type[Method]) -> None:
        """A notice for what was asked of a teacher and is of no use."""
        if method.needs.own_architecture:
            why, unused = "is taught by the student's own architecture", "teacher="
        elif not method.needs.teacher:
            why, unused = "has no use for a teacher", "teacher"
        else:
            return
        asked = [text for text in self._overrides if text.startswith(unused) and text != "teacher=none"]
        if asked:
            self.notices.append(f"method {method.name} {why}: {' '.join(asked)} is left aside")

    def _teacher_spec(
        self, options: TeacherOptions, parts: _Parts, dataset: DatasetSpec
    ) -> Callable[[Spec], Spec] | None:
        taught = method_class(parts.method)
        if taught.needs.teacher:
            self.problems.append(f"teacher.method={taught.name}: must be a method without a teacher of its own")
        if options.checkpoint is None:
            seeds = options.seeds
            return lambda own: dataclasses.replace(
                own, dataset=dataset, **_fields(parts), seed=seeds[0] if seeds else own.seed
            )
        path = Path(options.checkpoint).expanduser()
        try:
            digest = own_weights(path, parts.student, dataset)
        except OSError as error:
            self.problems.append(f"teacher.checkpoint={path}: {error.strerror}")
            return None
        except RuntimeError as error:
            self.problems.append(f"teacher.checkpoint: {error}")
            return None
        aside = ("teacher.stop_epoch", "teacher.method", "teacher.recipe", "teacher.seeds", "teacher.dataset")
        unused = [text for text in self._overrides if text.startswith(aside)]
        if unused:
            self.notices.append(f"teacher.checkpoint is taken as it is: {' '.join(unused)} is left aside")
        self._weight_files[digest] = path
        # Nothing is trained, so how and from which seed is no part of it.
        method_unused = Component("kdrun.methods.CE")
        return lambda own: Spec(dataset, parts.student, method_unused, precision=own.precision, weights=digest)


def _check_directory(name: str) -> None:
    """Raises `ValueError` where a directory of this name neither is nor can be made, because a file is in its place."""
    path = Path(name)
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not name or not there.is_dir():
        raise ValueError(f"must be a directory, or a name for one; {str(there) if name else 'nothing'} is none")


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


def _runtime(options: RuntimeOptions, device: torch.device, data: Path) -> Runtime:
    settled = {**vars(options), "device": device, "output_root": Path(options.output_root), "data_root": data}
    del settled["precision"]  # it is in the spec
    return Runtime(**settled)


def _selected(dataset: DatasetSpec, selection: Selection) -> DatasetSpec:
    """The dataset with another selection of its training images.

    Raises:
        ValueError: a fraction or class out of range.
    """
    return dataclasses.replace(dataset, **vars(selection))


def _fields(parts: _Parts) -> dict[str, Any]:
    return {option.name: getattr(parts, option.name) for option in dataclasses.fields(parts)}
