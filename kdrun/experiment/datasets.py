"""A dataset from its config to a run: described, loaded, verified, selected, and resident on the device."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdrun.data import (
    CONTENT_HASH,
    Examples,
    ImageSet,
    Resident,
    ResidentImages,
    ResidentSequences,
    Splits,
    check_images,
    check_sequences,
    claims_identity,
    composed,
    data_home,
    identity,
    relabelled,
    select,
    undecoded,
)
from kdrun.data import NOT_DECODED as NOT_DECODED  # how config reaches it
from kdrun.data import DataError as DataError
from kdrun.experiment.build import call_with
from kdrun.files import expanded, is_dry_run
from kdrun.spec.components import resolve
from kdrun.spec.dataset import DatasetSpec, ImageDatasetSpec
from kdrun.spec.signature import unknown


@dataclass(frozen=True)
class ResidentSplits:
    """The splits of one dataset on the device, as `kdrun.data.Selected` has them."""

    train: Resident
    val: Resident | None
    test: Resident
    rest: tuple[int, int] | None = None

    def evaluated(self) -> dict[str, Resident]:
        """What is evaluated after each epoch, by name."""
        return {"test": self.test} if self.val is None else {"val": self.val, "test": self.test}


def load_resident(dataset: DatasetSpec, root: Path, device: torch.device) -> ResidentSplits:
    """Loads, verifies and selects a dataset, and puts it on the device; raises as `load_splits`."""
    selected = select(
        load_splits(dataset, root),
        train_fraction=dataset.train_fraction,
        val_fraction=dataset.val_fraction,
        classes=dataset.classes,
        special=dataset.special,
        special_seed=dataset.special_seed,
    )

    def resident(part: Examples) -> Resident:
        return make_resident(part, dataset, device)

    val = resident(selected.val) if selected.val is not None else None
    return ResidentSplits(resident(selected.train), val, resident(selected.test), selected.rest)


def load_test(dataset: DatasetSpec, root: Path, device: torch.device) -> Resident:
    """The test examples of a dataset alone, on the device; raises as `load_splits`."""
    return make_resident(load_splits(dataset, root).test, dataset, device)


def make_resident(part: Examples, dataset: DatasetSpec, device: torch.device) -> Resident:
    """Examples of a dataset on the device, their labels as numbers of a network's outputs."""
    if isinstance(part, ImageSet):
        assert isinstance(dataset, ImageDatasetSpec), "checked by the dataset"
        part = ImageSet(part.images, relabelled(part.labels, dataset.outputs))
        return ResidentImages(part, mean=dataset.mean, std=dataset.std, device=device)
    return ResidentSequences(part, device=device)


def describe_dataset(node: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A dataset node with its open fields filled: what a config leaves null (`folder`) is found in the data.

    So is the identity of data that is not what the config's identity claims.

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
        splits: Splits = call_with(loader, {**node, "root": root})
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
    splits: Splits = call_with(resolve(dataset.target, Splits), {**offered, "root": root})
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
    expected = {
        **dataset.network_options,
        "num_classes": dataset.num_classes,
    }  # specialists have other outputs
    check: Callable[..., None] = check_images if isinstance(dataset, ImageDatasetSpec) else check_sequences
    check(splits, **expected)
