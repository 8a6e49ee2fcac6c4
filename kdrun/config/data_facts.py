"""From a dataset's config node to its checked spec, and notices about small datasets."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.config.findings import Findings
from kdrun.experiment.datasets import (
    PLACES,
    DataError,
    check_images_readable,
    class_indices,
    data_root,
    describe_dataset,
    is_streamable,
)
from kdrun.experiment.runtime import Runtime
from kdrun.spec.components import resolve, sources
from kdrun.spec.dataset import DatasetSpec, ImageDatasetSpec, kind_of
from kdrun.spec.signature import construct
from kdrun.spec.spec import Spec

FACTS = (
    *("identity", "num_classes", "train_size", "test_size"),
    *("in_channels", "image_size", "num_tokens", "length", "per_token"),
)
OF_IMAGES = ("classes", "drop_classes")
"""Fields of image datasets alone."""

CHECKED_AGAINST = {"num_classes": ("classes",), "in_channels": ("mean", "std")}
"""Fields of a dataset whose allowed values depend on another."""


def check_dataset(findings: Findings, node: Any, path: str = "dataset") -> DatasetSpec | None:
    """The dataset's identity and shape; the data is read only for what the config leaves null.

    Args:
        findings: where problems go.
        node: the dataset's `_target_` node.
        path: of the node: `dataset`, or `teacher.trained_on`.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        findings.problems.append(f"{path}: must be a group option or a mapping with a _target_, not {node!r}")
        return None
    root = node.get("root")
    if not isinstance(root, str | None):
        findings.problems.append(f"{path}.root={root!r}: must be text or null")
        return None
    try:
        indexed = findings.attempt(f"{path}.", with_indices, node, node, data_root(node))
        if indexed is None:
            return None
        node, target = indexed, node["_target_"]
        refused = [*_refused_facts(node, findings.overrides, path), *_refused_place(node, path)]
        found = describe_dataset(node, data_root(node))
        injected = {"target": target, "source": sources(resolve(target), target, {})}
    except DataError as error:
        if findings.complete or root is not None:
            findings.problems.append(f"{path}: {error}")
        return None
    except (ValueError, RuntimeError) as error:
        findings.problems.append(f"{path}: {error}")
        return None
    except Exception as error:  # whatever the user's own loader raises
        findings.problems.append(f"{path}._target_={target}: {type(error).__name__}: {error}")
        return None
    name = target.rpartition(".")[2]
    if node.get("identity") not in (None, found["identity"]):
        findings.notices.append(
            f"{path}={name}: {data_root(node)} is not verified as the official data; "
            f"its identity is a hash of its content, {found['identity'][:32]}..."
        )
    kind, aside = kind_of(found), ["_target_", "root", "resident", "drop_classes", *PLACES]
    if kind is not ImageDatasetSpec:
        refused += [
            f"{path}.{option}={found[option]!r}: is of images, and this dataset has {kind.example}s; must be null"
            for option in OF_IMAGES
            if found.get(option) is not None
        ]
        aside += OF_IMAGES
    values = {field: value for field, value in found.items() if field not in aside}
    others: list[str] = []
    dataset: DatasetSpec | None = construct(kind, values, path, others, injected=injected)
    findings.problems += [*refused, *_not_following(refused, others, path)]
    if refused or dataset is None:
        return None
    kept: DatasetSpec | None = findings.attempt(f"{path}.", without_classes, dataset, node.get("drop_classes"))
    return kept


def check_readable(findings: Findings, spec: Spec, runtime: Runtime) -> None:
    """Checks the data of a run and its teachers: what cannot be downloaded must be there.

    Images that are to be kept in memory are decoded, and each that cannot be read is a problem.
    """
    crop = spec.recipe.augmentation.crop_scale
    if runtime.resident is True and crop is not None:
        findings.problems.append(
            f"dataset.resident=true: recipe.augmentation.crop_scale={list(crop)} cuts views from whole images, which "
            "are streamed; must be auto or false"
        )
        return
    for run in (spec, *spec.all_before()):
        try:
            check_images_readable(run.dataset, runtime, run.recipe.augmentation)
        except DataError as error:
            findings.problems.append(f"dataset: {error}")
            return


def with_indices(selection: Mapping[str, Any], node: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A selection with its classes by index; the data is read only if some are given by name.

    Args:
        selection: has `classes` and `drop_classes`; faults other than unknown names stay.
        node: the dataset's config, `_target_` included.
        root: the data's directory.

    Raises:
        ValueError: a name of no class, or of several.
        kdrun.data.DataError: no readable data.
    """
    changed: dict[str, Any] = dict(selection)
    for option in OF_IMAGES:
        classes = selection.get(option)
        if isinstance(classes, (list, tuple)) and any(isinstance(name, str) for name in classes):
            try:
                changed[option] = class_indices(classes, node, root)
            except ValueError as error:
                raise ValueError(f"{option}={list(classes)}: {error}") from error
    return changed


def without_classes(dataset: DatasetSpec, dropped: Any) -> DatasetSpec:
    """The dataset without the training images of some classes.

    Args:
        dataset: with all its classes, where some are dropped.
        dropped: class indices, or None.

    Raises:
        ValueError: not classes of the dataset, all of them, `classes` is set too, or a dataset without images.
    """
    if dropped is None:
        return dataset
    if not isinstance(dataset, ImageDatasetSpec):
        raise ValueError(f"drop_classes={dropped!r}: is of images, and {dataset.name} has {dataset.example}s")
    if not isinstance(dropped, (list, tuple)) or not dropped or not set(dropped) < set(range(dataset.num_classes)):
        raise ValueError(
            f"drop_classes={dropped!r}: must be null, or class indices from 0 to {dataset.num_classes - 1} or class "
            "names, not all"
        )
    if dataset.classes is not None:
        raise ValueError(f"drop_classes={dropped!r}: says what dataset.classes says; give one of the two")
    kept = tuple(label for label in range(dataset.num_classes) if label not in dropped)
    return dataclasses.replace(dataset, classes=kept)


def _refused_facts(node: Mapping[str, Any], overrides: Sequence[str], path: str) -> list[str]:
    """A problem for each typed fact of the data that its loader does not take: it would be ignored.

    A config file may state any fact.

    Args:
        node: a dataset's config, `_target_` included.
        overrides: as typed.
        path: of the node.

    Raises:
        ValueError: the loader cannot be resolved.
    """
    loader = resolve(node["_target_"])
    options = set(inspect.signature(loader).parameters) - {"identity"}
    typed = {text.lstrip("+").partition("=")[0] for text in overrides}
    problems = [
        f"{path}.{name}={node[name]!r}: is what the data has, and {loader.__name__} cannot make it another; "
        "a dataset config of your own may state it"
        for name in FACTS
        if f"{path}.{name}" in typed and node.get(name) is not None and name not in options
    ]
    if node.get("resize_size") is not None and "resize_size" not in options:
        problems.append(f"{path}.resize_size={node['resize_size']!r}: {loader.__name__} resizes nothing; must be null")
    if node.get("skip_corrupt") and "skip_corrupt" not in options:
        problems.append(f"{path}.skip_corrupt=true: {loader.__name__} leaves out no images; must be false")
    if node.get("test_split") is not None and "test_split" not in options:
        problems.append(f"{path}.test_split={node['test_split']!r}: {loader.__name__} has one test set; must be null")
    return problems


def _refused_place(node: Mapping[str, Any], path: str) -> list[str]:
    """The problem of `resident`, if it is one: it is for loaders of encoded images."""
    resident = node.get("resident", "auto")
    if resident != "auto" and not isinstance(resident, bool):
        return [f"{path}.resident={resident!r}: must be auto, true or false"]
    if resident != "auto" and not is_streamable(resolve(node["_target_"])):
        return [f"{path}.resident={str(resident).lower()}: this dataset is always in memory; must be auto"]
    return []


def _not_following(refused: Sequence[str], others: Sequence[str], path: str) -> list[str]:
    """Problems of a dataset that do not follow from the refused fields."""
    names = {line.partition("=")[0].removeprefix(f"{path}.") for line in refused}
    names |= {follower for name in names for follower in CHECKED_AGAINST.get(name, ())}
    return [line for line in others if line.partition("=")[0].removeprefix(f"{path}.") not in names]


def few_images(path: str, spec: Spec) -> list[str]:
    """A notice where a run has fewer training images than one batch.

    Args:
        path: of its recipe: empty for the run's own, else `teacher.`.
        spec: the run.
    """
    examples, batch_size = spec.dataset.num_train_examples, spec.recipe.batch_size
    if examples >= batch_size or spec.epochs_trained == 0:
        return []
    return [
        f"{path}recipe.batch_size={batch_size}: there are about {examples} {spec.dataset.example}s to train on, fewer "
        "than one batch; an epoch is one step on all of them"
        + (", and recipe.lr is scaled by their number" if spec.recipe.lr_batch_size is not None else "")
    ]


def long_average(path: str, spec: Spec) -> list[str]:
    """A notice where the average of the weights spans more steps than a run has; arguments as of `few_images`."""
    decay = spec.recipe.ema_decay
    steps = spec.epochs_trained * math.ceil(spec.dataset.num_train_examples / spec.recipe.batch_size)
    if decay is None or steps == 0 or steps * (1 - decay) >= 1:
        return []
    return [
        f"{path}recipe.ema_decay={decay}: the average spans about {1 / (1 - decay):.0f} steps, the run has {steps}; "
        "the weights that are evaluated stay close to the initial ones"
    ]
