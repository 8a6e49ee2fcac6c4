"""What a dataset is: compared, or refused, where the command line says otherwise; and told where it is small."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.config.findings import Findings
from kdrun.experiment.datasets import NOT_DECODED, DataError, class_indices, class_names, data_root, describe_dataset
from kdrun.spec.components import resolve, sources
from kdrun.spec.dataset import DatasetSpec, ImageDatasetSpec, kind_of
from kdrun.spec.signature import construct
from kdrun.spec.spec import Spec

FOUND_IN_DATA = ("identity", "num_classes", "train_size", "test_size")
"""What a config may leave null."""

FACTS = (*FOUND_IN_DATA, "in_channels", "image_size", "num_tokens", "length", "per_token")
OF_IMAGES = ("classes", "drop_classes")
"""Choices that there are of images alone."""

CHECKED_AGAINST = {"num_classes": ("classes",), "in_channels": ("mean", "std")}
"""Other fields of a dataset by what decides on them."""


def check_dataset(findings: Findings, node: Any, path: str = "dataset") -> DatasetSpec | None:
    """The dataset's identity and shape; data is touched only where the config leaves them open.

    Args:
        findings: where problems go.
        node: the dataset's `_target_` node.
        path: where it stands: `dataset`, or `teacher.trained_on`.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        findings.problems.append(f"{path}: must be a group option or a mapping with a _target_, not {node!r}")
        return None
    root = node.get("root")
    if not isinstance(root, str | None):
        findings.problems.append(f"{path}.root={root!r}: must be text or null")
        return None
    refused: list[str] = []
    try:
        indexed = findings.attempt(f"{path}.", with_indices, node, node, data_root(node))
        if indexed is None:
            return None
        findings.notices += _numbers_as_names(node, data_root(node), path)
        node = indexed
        found = _describe(node, data_root(node), findings.overrides, refused, path)
        target = node["_target_"]
        injected = {"target": target, "source": sources(resolve(target), target, {})}
    except DataError as error:
        if findings.complete or root is not None:
            findings.problems.append(f"{path}: {error}")
        return None
    except (ValueError, RuntimeError) as error:
        findings.problems.append(f"{path}: {error}")
        return None
    except Exception as error:  # whatever the user's own loader raises
        findings.problems.append(f"{path}._target_={node['_target_']}: {type(error).__name__}: {error}")
        return None
    if _is_undecoded(found["identity"]):
        findings.notices.append(
            f"{path}={resolve(node['_target_']).__name__}: a dry run decodes no images, and those in {data_root(node)} "
            "are not in the cache: damaged files are found when the run begins, run ids and finished runs not before"
        )
    elif node.get("identity") not in (None, found["identity"]):
        findings.notices.append(
            f"{path}={resolve(node['_target_']).__name__}: kdrun did not unpack what is in {data_root(node)} from the "
            f"official archive; its identity is that of its content, {found['identity'][:32]}"
        )
    kind, aside = kind_of(found), ["_target_", "root", "drop_classes"]
    if kind is not ImageDatasetSpec:
        refused += [
            f"{path}.{name}={found[name]!r}: is of images, and this dataset has {kind.example}s; must be null"
            for name in OF_IMAGES
            if found.get(name) is not None
        ]
        aside += OF_IMAGES
    values = {name: value for name, value in found.items() if name not in aside}
    others: list[str] = []
    dataset: DatasetSpec | None = construct(kind, values, path, others, injected=injected)
    findings.problems += [*refused, *_not_following(refused, others, path)]
    if refused or dataset is None:
        return None
    kept: DatasetSpec | None = findings.attempt(f"{path}.", without_classes, dataset, node.get("drop_classes"))
    return kept


def _is_undecoded(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(NOT_DECODED)


def with_indices(selection: Mapping[str, Any], node: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A choice of classes by index, where some of them are given by name; only then the data is read.

    Args:
        selection: what has `classes` and `drop_classes`; a fault that is not one of names is left as it is.
        node: the dataset's config, `_target_` included.
        root: where the data lies.

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


def _numbers_as_names(node: Mapping[str, Any], root: Path, path: str) -> list[str]:
    """A notice where classes are chosen by index and their names are other numbers: either may be meant."""
    chosen = {option: classes for option in OF_IMAGES if isinstance(classes := node.get(option), (list, tuple))}
    if not chosen or all(node.get(name) is not None for name in FOUND_IN_DATA):
        return []
    names = class_names(node, root)
    if not all(name.isdecimal() for name in names) or names == tuple(map(str, range(len(names)))):
        return []
    numbers = {option: [index for index in classes if type(index) is int] for option, classes in chosen.items()}
    return [
        f"{path}.{option}={indices}: indices, of the classes {[names[index] for index in indices]}; a name is text"
        for option, indices in numbers.items()
        if indices and set(indices) <= set(range(len(names)))
    ]


def without_classes(dataset: DatasetSpec, dropped: Any) -> DatasetSpec:
    """The dataset without the training images of some classes: another way to say which ones stay.

    Args:
        dataset: with all its classes, where some are dropped.
        dropped: class indices, or None.

    Raises:
        ValueError: they are none of the dataset, all of them, beside `classes`, or of a dataset without images.
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


def _describe(
    node: Mapping[str, Any], root: Path, overrides: Sequence[str], problems: list[str], path: str
) -> dict[str, Any]:
    """`describe_dataset`, after a look at what the user says of the data and the loader does not ask for.

    Where the data is read anyway, because the config leaves something open, that is compared; elsewhere a wrong
    value would be found only when the data is loaded, so it is refused.

    Args:
        node: a dataset's config, `_target_` included.
        root: where the data lies.
        overrides: what the user typed; a config of the user's own may state what it likes.
        problems: a line is added here for each value that is refused.
        path: where the node stands.

    Raises:
        ValueError: the loader cannot be resolved.
        kdrun.data.DataError: open fields, and no readable data.
    """
    loader = resolve(node["_target_"])
    typed = {text.lstrip("+").partition("=")[0] for text in overrides}
    made = inspect.signature(loader).parameters
    stated = {
        name: node[name]
        for name in FACTS
        if f"{path}.{name}" in typed and node.get(name) is not None and (name not in made or name == "identity")
    }
    if node.get("test_split") is not None and "test_split" not in made:
        problems.append(f"{path}.test_split={node['test_split']!r}: {loader.__name__} has one test set; must be null")
    is_read = any(node.get(name) is None for name in FOUND_IN_DATA)
    compared = [name for name in stated if is_read and name in FOUND_IN_DATA]
    found = describe_dataset({**node, **dict.fromkeys(compared)}, root)
    for name, value in stated.items():
        if name not in compared:
            problems.append(
                f"{path}.{name}={value!r}: is what the data has, and {loader.__name__} cannot make it another; "
                "a dataset config of your own may state it"
            )
        elif found[name] != value and not _is_undecoded(found[name]):
            problems.append(f"{path}.{name}={value!r}: the data in {root} has {found[name]!r}")
    return found


def _not_following(refused: Sequence[str], others: Sequence[str], path: str) -> list[str]:
    """What is wrong with a dataset beside what was refused and what is wrong only because of it."""
    names = {line.partition("=")[0].removeprefix(f"{path}.") for line in refused}
    names |= {follower for name in names for follower in CHECKED_AGAINST.get(name, ())}
    return [line for line in others if line.partition("=")[0].removeprefix(f"{path}.") not in names]


def few_images(path: str, spec: Spec) -> list[str]:
    """A notice where a run has fewer training images than one batch.

    Args:
        path: where its recipe stands: empty for the run's own, else `teacher.`.
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
