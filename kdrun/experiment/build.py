"""From names to objects: the allow-list of `_target_`, and the one place where a spec's parts are built."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdrun.data import CONTENT_HASH, DataError, Splits, check, data_home, identity
from kdrun.experiment.signature import bind, unknown, without_defaults
from kdrun.experiment.spec import Component, DatasetSpec, Recipe, Spec, as_tuples
from kdrun.files import sha256
from kdrun.methods import Method as Method
from kdrun.methods.base import Pair
from kdrun.methods.sum import TERMS, term_weight
from kdrun.taps import Outline, outline
from kdrun.training.checkpoint import CheckpointError, read_weights
from kdrun.training.optimisation import MultiStepSchedule, build_optimizer
from kdrun.training.precision import on_device
from kdrun.training.precision import resolve_device as resolve_device  # how config reaches them
from kdrun.training.precision import resolve_precision as resolve_precision

TRUST_VARIABLE = "KDRUN_TRUST"
MODEL_INJECTED = ("num_classes", "in_channels", "image_size")
METHOD_INJECTED = ("student", "pair")


def trusted_packages() -> tuple[str, ...]:
    """`kdrun`, and the packages that the environment variable `KDRUN_TRUST` names (comma separated)."""
    named = os.environ.get(TRUST_VARIABLE, "").replace(":", ",").split(",")
    return ("kdrun", *(package.strip() for package in named if package.strip()))


def resolve(target: str, kind: type | None = None) -> Callable[..., Any]:
    """The class or function that a `_target_` names.

    A config from a stranger is data, not code: the name must lie in a trusted package, and so must the object that
    it resolves to, which an alias such as `kdrun.losses.torch.load` does not.

    Args:
        target: dotted path.
        kind: what it must be a concrete subclass of, or a function that returns one; None takes anything.

    Raises:
        ValueError: not trusted, not found, nothing that can be called, or of another kind.
    """
    allowed = trusted_packages()
    refusal = (
        f"{target!r} is outside the trusted packages ({', '.join(allowed)}); to trust one, name it in the "
        f"environment variable {TRUST_VARIABLE}"
    )
    if target.partition(".")[0] not in allowed:
        raise ValueError(refusal)
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{target!r} cannot be imported: {error}") from error
    if not inspect.isclass(found) and not inspect.isfunction(found):
        raise ValueError(f"{target!r} is no class or function")
    if found.__module__.partition(".")[0] not in allowed:
        raise ValueError(refusal)
    if kind is not None and not _makes(found, kind):
        raise ValueError(f"{target!r} is no concrete {kind.__name__}, nor a function that returns one")
    resolved: Callable[..., Any] = found
    return resolved


def _makes(found: Any, kind: type) -> bool:
    """Whether calling a class or function gives a `kind`; a function without annotation is taken at its word."""
    made = found if inspect.isclass(found) else typing.get_type_hints(found).get("return", kind)
    return inspect.isclass(made) and issubclass(made, kind) and not (made is found and inspect.isabstract(made))


def component(node: Any, path: str, problems: list[str], *, injected: tuple[str, ...], kind: type) -> Component | None:
    """Reads a `_target_` node of the config; every fault becomes a line in `problems`, and the result None.

    Args:
        node: `{"_target_": dotted path, option: value, ...}`.
        path: where it stands in the config.
        problems: faults found so far.
        injected: parameters the program supplies.
        kind: what the target must be a subclass of, or return.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        problems.append(f"{path}: must be a group option or a mapping with a _target_, not {node!r}")
        return None
    try:
        target = resolve(node["_target_"], kind)
    except ValueError as error:
        problems.append(f"{path}._target_: {error}")
        return None
    fault_count = len(problems)
    options = {name: value for name, value in node.items() if name != "_target_"}
    bound = bind(target, options, path, problems, injected=injected)
    if len(problems) > fault_count:
        return None
    return Component(node["_target_"], without_defaults(target, bound), _source(target))


def _source(target: Callable[..., Any]) -> str | None:
    """SHA-256 of the file that defines a target outside kdrun."""
    if target.__module__.partition(".")[0] == "kdrun":
        return None
    return sha256(Path(inspect.getfile(target)).read_bytes())


def student_component(node: Any, path: str, problems: list[str]) -> Component | None:
    """Reads a network's node, see `component`."""
    return component(node, path, problems, injected=MODEL_INJECTED, kind=nn.Module)


def method_component(node: Any, path: str, problems: list[str]) -> Component | None:
    """Reads a method's node, see `component`; of a sum, the terms' options too."""
    found = component(node, path, problems, injected=METHOD_INJECTED, kind=Method)
    return found if found is None or "terms" not in found.options else _with_terms(found, path, problems)


def _with_terms(method: Component, path: str, problems: list[str]) -> Component:
    """Binds the options of each term of a sum to the method that it names; a term that is null is left out."""
    terms = {}
    for name, options in method.options["terms"].items():
        place = f"{path}.terms.{name}"
        if options is None:
            continue
        if name not in TERMS or not isinstance(options, Mapping):
            what = unknown(name, TERMS, "term") if name not in TERMS else "must be a mapping of options, or null"
            problems.append(f"{place}: {what}")
            continue
        weight = {key: value for key, value in options.items() if key == "weight"}
        own = {key: value for key, value in options.items() if key != "weight"}
        bound = bind(TERMS[name], own, place, problems, injected=(*METHOD_INJECTED, *TERMS[name].alone))
        terms[name] = {**bind(term_weight, weight, place, problems), **without_defaults(TERMS[name], bound)}
    return dataclasses.replace(method, options={**method.options, "terms": terms})


def build_student(student: Component, dataset: DatasetSpec) -> nn.Module:
    """A freshly initialised network for a dataset; draws from torch's global generator.

    Raises:
        ValueError: an option the network refuses.
    """
    offered = {name: getattr(dataset, name) for name in MODEL_INJECTED}
    model: nn.Module = _call_with(resolve(student.target), offered, **student.options)
    return model


def check_network(student: Component, dataset: DatasetSpec) -> None:
    """Sends two images without data through a network: what it cannot do is better known before anything is trained.

    Raises:
        ValueError: it fails (looking at values counts: MACs are counted without data, too), or its output is not
            `[N, K]`.
    """
    shape = (2, dataset.in_channels, dataset.image_size, dataset.image_size)
    try:
        with torch.device("meta"), torch.no_grad():
            output = build_student(student, dataset)(torch.empty(shape))
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(f"{student.name} cannot take images {list(shape)}: {type(error).__name__}: {error}") from error
    if not isinstance(output, torch.Tensor) or output.shape != (2, dataset.num_classes):
        found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(f"{student.name} returns {found} for 2 images, not logits [2, {dataset.num_classes}]")


def outline_of(student: Component, dataset: DatasetSpec) -> Outline:
    """The taps and parameters of a network for a dataset; nothing is computed."""
    options = json.dumps(student.options, sort_keys=True)
    return _outline(student.target, options, dataset.num_classes, dataset.in_channels, dataset.image_size)


@functools.lru_cache(maxsize=64)  # the runs of a table ask for the same few networks again and again
def _outline(target: str, options: str, num_classes: int, in_channels: int, image_size: int) -> Outline:
    offered = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    with torch.device("meta"):
        network: nn.Module = _call_with(resolve(target), offered, **as_tuples(json.loads(options)))
    return outline(network, (in_channels, image_size, image_size), target.rpartition(".")[2])


def takes_pair(method: Component) -> bool:
    """Whether a method's constructor looks at the networks."""
    return "pair" in inspect.signature(method_class(method)).parameters


def pair_for(spec: Spec, device: torch.device) -> Pair | None:
    """What a run's method is told of the networks; None where its constructor has no use for it."""
    if not takes_pair(spec.method):
        return None
    teachers = [outline_of(teacher.student, teacher.dataset) for teacher in spec.teachers]
    return Pair(
        student=outline_of(spec.student, spec.dataset),
        teacher=teachers[0] if teachers else Outline(),
        fresh=lambda: on_device(build_student(spec.student, spec.dataset), device),
    )


def build_method(method: Component, student: nn.Module, pair: Pair | None = None) -> Method:
    """The method around its student.

    Args:
        method: its class and options.
        student: the network to train.
        pair: see `pair_for`.

    Raises:
        ValueError: an option the method refuses.
    """
    offered = {} if pair is None else {"pair": pair}
    built: Method = resolve(method.target)(student, **offered, **method.options)
    return built


def method_class(method: Component) -> type[Method]:
    """The class a method component names: its `name` and `needs`.

    Raises:
        ValueError: it cannot be resolved, or is no method.
    """
    found = resolve(method.target)
    if not (inspect.isclass(found) and issubclass(found, Method)):
        raise ValueError(f"{method.target!r} is no Method")
    return found


def describe_dataset(node: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A dataset node with its open fields filled: what a config leaves null (`folder`) is found in the data.

    Args:
        node: a dataset's config, `_target_` included.
        root: where the data lies.

    Raises:
        ValueError: the loader cannot be resolved.
        kdrun.data.DataError: open fields, and no readable data.
    """
    found_in_data = ("identity", "num_classes", "train_size", "test_size")
    if all(node.get(name) is not None for name in found_in_data):
        resolve(node["_target_"], Splits)
        return dict(node)
    splits = _call_with(resolve(node["_target_"], Splits), {**node, "root": root})
    found = {
        "identity": identity(splits),
        "num_classes": len(splits.class_names),
        "train_size": len(splits.train.labels),
        "test_size": len(splits.test.labels),
    }
    return {**node, **{name: value for name, value in found.items() if node.get(name) is None}}


def data_root(named: str | None) -> Path:
    """`dataset.root`, else `$KDRUN_DATA`, else `~/.cache/kdrun/data`."""
    return Path(named).expanduser() if named else data_home()


def load_splits(dataset: DatasetSpec, root: Path) -> Splits:
    """Reads a dataset, verified, through its loader.

    Raises:
        kdrun.data.DataError: absent and unreachable, damaged, or not what the spec says.
    """
    splits: Splits = _call_with(resolve(dataset.target, Splits), {**dataclasses.asdict(dataset), "root": root})
    check(splits, num_classes=dataset.num_classes, in_channels=dataset.in_channels, image_size=dataset.image_size)
    found = (len(splits.train.labels), len(splits.test.labels))
    if found != (dataset.train_size, dataset.test_size):
        raise DataError(
            f"{dataset.name} has {found[0]} training and {found[1]} test images, "
            f"not dataset.train_size={dataset.train_size} and dataset.test_size={dataset.test_size}"
        )
    if dataset.identity.startswith(CONTENT_HASH) and dataset.identity != identity(splits):
        raise DataError(f"{dataset.name} in {root} is not what this run was made for: its images have changed")
    return splits


def _call_with(function: Callable[..., Any], offered: Mapping[str, Any], **options: Any) -> Any:
    """Calls a function with those of the offered values that its signature names, and with all the options."""
    accepted = inspect.signature(function).parameters
    return function(**{name: value for name, value in offered.items() if name in accepted}, **options)


def all_options(method: Component) -> dict[str, Any]:
    """A component's options with those at their default filled in, for people to read."""
    parameters = inspect.signature(resolve(method.target)).parameters.values()
    defaults = {
        parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty
    }
    return {**defaults, **method.options}


def load_weights(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Loads a state dict that was read from `path`.

    Raises:
        CheckpointError: names or shapes differ.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip()[:200] for line in str(error).splitlines()]
        raise CheckpointError(f"{path} does not fit the network: {'; '.join(lines[1:4])}") from error


def own_weights(path: Path, student: Component, dataset: DatasetSpec) -> str:
    """The SHA-256 of a file with weights of the user's own, which must fit the network.

    Raises:
        CheckpointError: not readable as weights, or of another network.
        OSError: not readable at all.
    """
    state, digest = read_weights(path)
    with torch.device("meta"):
        shapes = {name: tensor.to("meta") for name, tensor in state.items()}
        load_weights(build_student(student, dataset), shapes, path)
    return digest


def stage_recipes(recipe: Recipe, method: Method) -> list[Recipe]:
    """The recipes of a method's stages, one or two: the last is the run's own.

    Raises:
        ValueError: the first stage does not fit the run's recipe.
    """
    if not method.stage1_epochs:
        return [recipe]
    warmup = min(recipe.warmup_epochs, method.stage1_epochs)
    changes = {"warmup_epochs": warmup, **method.stage1_recipe(), "epochs": method.stage1_epochs}
    return [dataclasses.replace(recipe, **changes), recipe]


def build_schedule(recipe: Recipe, steps_per_epoch: int) -> MultiStepSchedule:
    """The learning rate as a function of the step."""
    return MultiStepSchedule(
        lr=recipe.scaled_lr,
        total_steps=recipe.epochs * steps_per_epoch,
        warmup_steps=recipe.warmup_epochs * steps_per_epoch,
        milestones=recipe.milestones,
        gamma=recipe.gamma,
    )


def build_optimisation(
    recipe: Recipe, parameters: Iterable[nn.Parameter], steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, MultiStepSchedule]:
    """The optimiser over parameters, and the learning rate as a function of the step."""
    schedule = build_schedule(recipe, steps_per_epoch)
    optimizer = build_optimizer(
        recipe.optimizer,
        parameters,
        lr=schedule(0),
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    return optimizer, schedule
