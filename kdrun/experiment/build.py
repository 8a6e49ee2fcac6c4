"""From a spec to objects: the one place where its parts are built."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from kdrun.data import (
    CONTENT_HASH,
    Splits,
    check_images,
    check_sequences,
    claims_identity,
    composed,
    data_home,
    identity,
    undecoded,
)
from kdrun.data import NOT_DECODED as NOT_DECODED  # how config reaches it
from kdrun.data import DataError as DataError
from kdrun.files import expanded, is_dry_run
from kdrun.methods import Method as Method
from kdrun.methods import shipped_methods
from kdrun.methods.base import Needs, Pair, TrainingSet
from kdrun.models import sequence_networks
from kdrun.spec.components import SEQUENCE_INJECTED, asks_for, is_sum, method_class, method_of, resolve, told_to
from kdrun.spec.dataset import DatasetSpec, ImageDatasetSpec
from kdrun.spec.signature import unknown
from kdrun.spec.spec import Component, Recipe, Spec, as_tuples
from kdrun.spec.terms import terms_with_classes
from kdrun.taps import Outline, outline
from kdrun.training.conversion import Conversion
from kdrun.training.optimisation import (
    CosineSchedule,
    MultiStepSchedule,
    Schedule,
    bound_norms,
    build_optimizer,
    clip_gradients,
)
from kdrun.training.precision import on_device

MOST_PARAMETERS = 10_000_000_000
"""Of a network: 40 GB in fp32."""


def build_student(student: Component, dataset: DatasetSpec) -> nn.Module:
    """A freshly initialised network for a dataset; draws from torch's global generator.

    Raises:
        ValueError: an option the network refuses.
    """
    model: nn.Module = _call_with(resolve(student.target), dataset.told, **student.options)
    return model


def check_kind(student: Component, dataset: DatasetSpec) -> None:
    """Whether a network takes a dataset's kind of examples.

    Raises:
        ValueError: it takes the other kind.
    """
    takes_sequences = told_to(resolve(student.target)) == SEQUENCE_INJECTED
    if takes_sequences != ("num_tokens" in dataset.told):
        kind = "sequences" if takes_sequences else "images"
        theirs = f"{dataset.example}s, which {', '.join(sequence_networks())} take" if not takes_sequences else "images"
        raise ValueError(f"{student.name}: is a network for {kind}, and {dataset.name} has {theirs}")


def check_network(student: Component, dataset: DatasetSpec) -> None:
    """Sends two examples without data through a network: what it cannot do is better known before anything is trained.

    Raises:
        ValueError: it has more than `MOST_PARAMETERS`; it fails (looking at values counts: MACs are counted without
            data, too); or its output is not `[N, K]`, a row for each label.
    """
    shape = (2, *dataset.shape)
    try:
        with torch.device("meta"), torch.no_grad():
            network = build_student(student, dataset)
            count = sum(parameter.numel() for parameter in network.parameters() if not is_lazy(parameter))
            output = network(torch.empty(shape, dtype=dataset.dtype)) if count <= MOST_PARAMETERS else None
    except Exception as error:  # whatever the user's own code raises
        what = f"{student.name} cannot take {dataset.example}s {list(shape)}"
        raise ValueError(f"{what}: {type(error).__name__}: {error}") from error
    if count > MOST_PARAMETERS:
        raise ValueError(f"{student.name} has {count:,} parameters; at most {MOST_PARAMETERS:,}")
    expected = [2 * dataset.labels_each, len(dataset.outputs)]
    if not isinstance(output, torch.Tensor) or list(output.shape) != expected:
        found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(f"{student.name} returns {found} for 2 {dataset.example}s, not logits {expected}")


def outline_of(student: Component, dataset: DatasetSpec) -> Outline:
    """The taps and parameters of a network for a dataset; nothing is computed."""
    options = json.dumps(student.options, sort_keys=True)
    return _outline(student.target, options, tuple(dataset.told.items()), dataset.shape, dataset.dtype)


@functools.lru_cache(maxsize=64)  # the runs of a table ask for the same few networks again and again
def _outline(
    target: str, options: str, told: tuple[tuple[str, int | bool], ...], shape: tuple[int, ...], dtype: torch.dtype
) -> Outline:
    with torch.device("meta"):
        network: nn.Module = _call_with(resolve(target), dict(told), **as_tuples(json.loads(options)))
    return outline(network, shape, target.rpartition(".")[2], dtype=dtype)


def offered(spec: Spec, device: torch.device, labels: torch.Tensor | None = None) -> dict[str, Any]:
    """What the constructor of a run's method asks for: `pair` and `training`, one of them, or neither.

    Args:
        spec: of the run.
        device: where the method's networks are to be.
        labels: of the training examples; None where no data is loaded.
    """
    asked = asks_for(spec.method)
    found: dict[str, Any] = {}
    if "pair" in asked:
        teachers = [outline_of(teacher.student, teacher.dataset) for teacher in spec.teachers]
        found["pair"] = Pair(
            student=outline_of(spec.student, spec.dataset),
            teacher=teachers[0] if teachers else Outline(),
            fresh=lambda: on_device(build_student(spec.student, spec.dataset), device),
        )
    if "training" in asked:
        each = spec.dataset.labels_each
        if labels is None:
            labels = torch.empty(spec.dataset.num_train_examples * each, dtype=torch.int64, device="meta")
        found["training"] = TrainingSet(labels, len(labels) // each, len(spec.dataset.outputs))
    return found


def needs_of(spec: Spec) -> Needs:
    """What a run's method asks of its teacher and of its batches, with its options; no data is loaded."""
    with torch.device("meta"):
        return build_method(spec.method, nn.Identity(), offered(spec, torch.device("meta"))).needs


def check_batches(spec: Spec, needs: Needs) -> None:
    """Whether a run's batches can be what its method asks for.

    Raises:
        ValueError: groups of one class in batches that cut them, or of examples that are not of one class.
    """
    size, groups = spec.recipe.batch_size, needs.per_class
    name = method_class(spec.method).name
    if size % groups:
        raise ValueError(
            f"recipe.batch_size={size}: must be a multiple of {groups}: method {name} asks for groups of {groups} "
            f"{spec.dataset.example}s of one class"
        )
    if groups > 1 and spec.dataset.labels_each > 1:
        raise ValueError(
            f"dataset={spec.dataset.name}: has a label for every token, and method {name} asks for groups of "
            f"{spec.dataset.example}s of one class"
        )


def check_tasks(spec: Spec, needs: Needs) -> None:
    """A teacher that was trained on another dataset than its student answers questions that nobody asked.

    Args:
        spec: of the student.
        needs: of its method, as it is built.

    Raises:
        ValueError: such a teacher, or one of its own teachers, for a method that compares its logits with others.
    """
    others = [teacher.dataset for teacher in spec.all_teachers() if not teacher.dataset.same_task(spec.dataset)]
    if others and not needs.any_task:
        featured = sorted(name for name, kind in shipped_methods().items() if kind.needs.any_task)
        raise ValueError(
            f"teacher.trained_on={others[0].name}: method {method_class(spec.method).name} compares the teacher's "
            f"classes with those of {spec.dataset.name}; a teacher of another dataset is for methods on features or "
            f"relations alone: {', '.join(featured)}, in a form that compares no logits"
        )
    for other in others:
        if not (other.same_views(spec.dataset) or _converts(spec.dataset, other)):
            raise ValueError(
                f"teacher.trained_on={other.name}: its {other.example}s are made of no {spec.dataset.example}s of "
                f"{spec.dataset.name}; images are made of images alone"
            )


def _converts(student: DatasetSpec, teacher: DatasetSpec) -> bool:
    return isinstance(student, ImageDatasetSpec) and isinstance(teacher, ImageDatasetSpec)


def conversion(student: DatasetSpec, teacher: DatasetSpec) -> Conversion:
    """From the views of a student's dataset of images to what a teacher's network takes."""
    assert isinstance(student, ImageDatasetSpec)
    assert isinstance(teacher, ImageDatasetSpec), "refused in preflight"
    return Conversion(student.mean, student.std, teacher.image_size, teacher.mean, teacher.std)


def build_method(method: Component, student: nn.Module, given: Mapping[str, Any] | None = None) -> Method:
    """The method around its student.

    Args:
        method: its class and options.
        student: the network to train.
        given: what its constructor asks for, see `offered`.

    Raises:
        ValueError: an option the method refuses.
    """
    options = dict(method.options)
    if is_sum(method) and "terms" in options:  # it gets classes: only here names are resolved
        options["terms"] = terms_with_classes(options["terms"], method_of)
    built: Method = resolve(method.target)(student, **(given or {}), **options)
    return built


def describe_dataset(node: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A dataset node with its open fields filled: what a config leaves null (`folder`) is found in the data.

    So is the identity of data that is not what the config's identity claims.

    Args:
        node: a dataset's config, `_target_` included.
        root: where the data lies.

    Raises:
        ValueError: the loader cannot be resolved.
        kdrun.data.DataError: open fields, and no readable data.
    """
    found_in_data = ("identity", "num_classes", "train_size", "test_size")
    loader = resolve(node["_target_"], Splits)
    if node.get("identity") is not None and not claims_identity(loader, root):
        node = {**node, "identity": None}
    if all(node.get(name) is not None for name in found_in_data):
        return dict(node)
    splits = _read(loader, node, root)
    found = {
        "identity": identity(splits),
        "num_classes": len(splits.class_names),
        "train_size": len(splits.train.labels),
        "test_size": len(splits.test.labels),
    }
    return {**node, **{name: value for name, value in found.items() if node.get(name) is None}}


def class_indices(classes: Sequence[int | str], node: Mapping[str, Any], root: Path) -> list[int]:
    """Classes by index, where some are given by name; the data is read for its names.

    Args:
        classes: indices, and names in any of Unicode's forms.
        node: their dataset's config, `_target_` included.
        root: where the data lies.

    Raises:
        ValueError: a name of no class, or of several.
        kdrun.data.DataError: no readable data.
    """
    named = class_names(node, root)
    known = [composed(name) for name in named]
    for name in (composed(name) for name in classes if isinstance(name, str)):
        if name not in known:
            raise ValueError(f"{name}: {unknown(name, known, 'class')}")
        if known.count(name) > 1:
            numbers = [index for index, other in enumerate(known) if other == name]
            raise ValueError(f"{name}: is the name of classes {numbers}; give the index")
    return [known.index(composed(value)) if isinstance(value, str) else value for value in classes]


def class_names(node: Mapping[str, Any], root: Path) -> tuple[str, ...]:
    """The names of a dataset's classes, as they are in the data.

    Raises:
        kdrun.data.DataError: no readable data.
    """
    return _read(resolve(node["_target_"], Splits), node, root).class_names


def _read(loader: Callable[..., Splits], node: Mapping[str, Any], root: Path) -> Splits:
    """A dataset as its config says; in a dry run kdrun's own loaders decode no images, others' may look at them."""
    is_own = loader.__module__.partition(".")[0] == "kdrun"
    with undecoded() if is_own and is_dry_run() else contextlib.nullcontext():
        splits: Splits = _call_with(loader, {**node, "root": root})
    return splits


def data_root(node: Mapping[str, Any]) -> Path:
    """Where a dataset is stored: `root` of its config, else `$KDRUN_DATA`, else `~/.cache/kdrun/data`.

    Raises:
        kdrun.data.DataError: that is in the user's home, none is known, and the loader reads files.
        ValueError: the loader cannot be resolved.
    """
    if named := node.get("root"):
        try:
            return expanded(named)
        except FileNotFoundError as error:
            raise DataError(f"root={named}: {error.strerror}, or KDRUN_DATA and leave root out") from error
    try:
        return data_home()
    except DataError:
        if "root" in inspect.signature(resolve(node["_target_"])).parameters:
            raise
        return Path(os.devnull)  # of a loader that reads no files


def load_splits(dataset: DatasetSpec, root: Path) -> Splits:
    """Reads a dataset, verified, through its loader.

    Raises:
        kdrun.data.DataError: absent and unreachable, damaged, or not what the spec says.
    """
    offered = {name: value for name, value in vars(dataset).items() if name != "source"}
    splits: Splits = _call_with(resolve(dataset.target, Splits), {**offered, "root": root})
    _check(splits, dataset)
    found = (len(splits.train.labels), len(splits.test.labels))
    if found != (dataset.train_size, dataset.test_size):
        raise DataError(
            f"{dataset.name} has {found[0]} training and {found[1]} test {dataset.example}s, "
            f"not dataset.train_size={dataset.train_size} and dataset.test_size={dataset.test_size}"
        )
    if dataset.identity.startswith(CONTENT_HASH) and dataset.identity != identity(splits):
        raise DataError(
            f"{dataset.name} in {root} is not what this run was made for: its {dataset.example}s have changed"
        )
    return splits


def _check(splits: Splits, dataset: DatasetSpec) -> None:
    """Raises `DataError` unless the data is what its spec says."""
    told: dict[str, Any] = {
        **dataset.told,
        "num_classes": dataset.num_classes,
    }  # a specialist's network has other outputs
    check: Callable[..., None] = check_images if isinstance(dataset, ImageDatasetSpec) else check_sequences
    check(splits, **told)


def _call_with(function: Callable[..., Any], offered: Mapping[str, Any], **options: Any) -> Any:
    """Calls a function with those of the offered values that its signature names, and with all the options."""
    accepted = inspect.signature(function).parameters
    return function(**{name: value for name, value in offered.items() if name in accepted}, **options)


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


def build_schedule(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    """The learning rate as a function of the step."""
    if recipe.schedule == "cosine":
        return CosineSchedule(
            lr=recipe.scaled_lr,
            total_steps=recipe.epochs * steps_per_epoch,
            warmup_steps=recipe.warmup_epochs * steps_per_epoch,
        )
    return MultiStepSchedule(
        lr=recipe.scaled_lr,
        total_steps=recipe.epochs * steps_per_epoch,
        warmup_steps=recipe.warmup_epochs * steps_per_epoch,
        milestones=recipe.milestones,
        gamma=recipe.gamma,
    )


def build_optimisation(
    recipe: Recipe, parameters: Iterable[nn.Parameter], steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, Schedule]:
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
    if recipe.clip_norm is not None:
        clip_gradients(optimizer, recipe.clip_norm)
    if recipe.max_norm is not None:
        bound_norms(optimizer, recipe.max_norm)
    return optimizer, schedule
