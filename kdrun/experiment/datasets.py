"""A dataset from its config to a run: described, loaded, verified, selected, and resident on the device."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdrun.data import (
    CONTENT_HASH,
    FILES_HASH,
    EncodedSet,
    Examples,
    ImageSet,
    ResidentImages,
    ResidentSequences,
    SequenceSet,
    Splits,
    StreamedImages,
    Workers,
    check_images,
    check_present,
    check_sequences,
    claims_identity,
    composed,
    data_home,
    decode,
    default_processes,
    identity,
    relabelled,
    select,
)
from kdrun.data import DataError as DataError
from kdrun.data import is_streamable as is_streamable
from kdrun.experiment.build import call_with
from kdrun.experiment.runtime import Runtime
from kdrun.files import expanded
from kdrun.log import log
from kdrun.memory import free_bytes
from kdrun.spec.augmentation import Augmentation
from kdrun.spec.components import resolve
from kdrun.spec.dataset import DatasetSpec, ImageDatasetSpec
from kdrun.spec.signature import unknown

_NO_AUGMENTATION = Augmentation()

PLACES = ("path", "train_split", "image_column", "label_column", "train_shards", "test_shards")
"""Options that say where a dataset's data is, beside `root`."""

SHARE_OF_MEMORY = 0.5
"""Of the free memory, what decoded images may take where they are kept in memory by default: the rest is for a copy
(held-out examples), the networks and other processes."""

Prepared = ResidentImages | ResidentSequences | StreamedImages
"""Examples for training and evaluation: in the device's memory, or made by workers when a batch needs them."""


@dataclass(frozen=True)
class PreparedSplits:
    """The splits of one dataset for a device.

    Attributes:
        train: of the run, see `kdrun.data.Selected`.
        val: likewise.
        test: likewise.
        rest: likewise.
        left_out: images that cannot be read, see `kdrun.data.Splits`.
        workers: make the images that are not in memory; None where all are.
    """

    train: Prepared
    val: Prepared | None
    test: Prepared
    rest: tuple[int, int] | None = None
    left_out: tuple[int, int] | None = None
    workers: Workers | None = None

    def evaluated(self) -> dict[str, Prepared]:
        """What is evaluated after each epoch, by name."""
        return {"test": self.test} if self.val is None else {"val": self.val, "test": self.test}

    def close(self) -> None:
        """Ends the processes that make images, if there are any; later batches start others."""
        if self.workers is not None:
            self.workers.close()


def prepare_splits(
    dataset: DatasetSpec, runtime: Runtime, augmentation: Augmentation = _NO_AUGMENTATION
) -> PreparedSplits:
    """Loads, verifies and selects a dataset for training with this augmentation; raises as `load_splits`."""
    splits = load_splits(dataset, runtime.data_root, runtime.places)
    is_resident, reason = _is_resident(splits, runtime, augmentation)
    if reason:
        log.info("dataset=%s is %s: %s", dataset.name, "kept in memory" if is_resident else "streamed", reason)
    selected = select(
        decode(splits) if is_resident else splits,
        train_fraction=dataset.train_fraction,
        val_fraction=dataset.val_fraction,
        classes=dataset.classes,
        special=dataset.special,
        special_seed=dataset.special_seed,
    )
    parts = [selected.train, selected.test, *([] if selected.val is None else [selected.val])]
    streams = [isinstance(part, EncodedSet) for part in parts]
    streams[0] = streams[0] or augmentation.per_image
    workers = _workers([part for part, is_streamed in zip(parts, streams, strict=True) if is_streamed], runtime)
    prepared = [
        _streamed(part, workers, dataset, runtime) if is_streamed else _resident(part, dataset, runtime)
        for part, is_streamed in zip(parts, streams, strict=True)
    ]
    train, test = prepared[:2]
    val = prepared[2] if len(prepared) > 2 else None
    return PreparedSplits(train, val, test, selected.rest, splits.left_out, workers if any(streams) else None)


def prepare(part: Examples, dataset: DatasetSpec, runtime: Runtime) -> Prepared:
    """Examples of a dataset for evaluation, their labels as numbers of a network's outputs."""
    if isinstance(part, EncodedSet):
        return _streamed(part, _workers([part], runtime), dataset, runtime)
    return _resident(part, dataset, runtime)


def _workers(parts: Sequence[Examples], runtime: Runtime) -> Workers:
    processes = default_processes() if runtime.workers is None else runtime.workers
    return Workers(parts, processes, pinned=runtime.device.type == "cuda")


def _streamed(part: Examples, workers: Workers, dataset: DatasetSpec, runtime: Runtime) -> StreamedImages:
    assert isinstance(dataset, ImageDatasetSpec), "checked by the dataset"
    labels = relabelled(part.labels, dataset.outputs)
    return StreamedImages(part, workers, labels, mean=dataset.mean, std=dataset.std, device=runtime.device)


def _resident(part: Examples, dataset: DatasetSpec, runtime: Runtime) -> Prepared:
    if isinstance(part, ImageSet):
        assert isinstance(dataset, ImageDatasetSpec), "checked by the dataset"
        part = ImageSet(part.images, relabelled(part.labels, dataset.outputs))
        return ResidentImages(part, mean=dataset.mean, std=dataset.std, device=runtime.device)
    assert isinstance(part, SequenceSet), "encoded images are streamed"
    return ResidentSequences(part, device=runtime.device)


def settled_splits(dataset: DatasetSpec, runtime: Runtime, augmentation: Augmentation = _NO_AUGMENTATION) -> Splits:
    """The splits as they are used: encoded images that are to be in memory are decoded; raises as `load_splits`."""
    splits = load_splits(dataset, runtime.data_root, runtime.places)
    is_resident, _ = _is_resident(splits, runtime, augmentation)
    return decode(splits) if is_resident else splits


_READABLE: set[str] = set()
"""What `check_images_readable` has found readable in this process."""


def check_images_readable(dataset: DatasetSpec, runtime: Runtime, augmentation: Augmentation) -> None:
    """Whether data that cannot be downloaded is there; where its files identify it, that the images can be read.

    Those that are to be in memory are decoded, once a process.

    Raises:
        kdrun.data.DataError: absent, some images cannot be read, or they take more memory than is free.
    """
    key = repr((dataset, runtime, augmentation))
    if key in _READABLE:
        return
    check_present(resolve(dataset.target), runtime.data_root)
    if dataset.identity.startswith(FILES_HASH):
        settled_splits(dataset, runtime, augmentation)
    _READABLE.add(key)


def _is_resident(splits: Splits, runtime: Runtime, augmentation: Augmentation) -> tuple[bool, str]:
    """Whether splits are to be decoded into memory, and why, where encoded ones need not be either.

    Raises:
        kdrun.data.DataError: it is required, and they take more memory than is free.
    """
    parts = [part for part in (splits.train, splits.test) if isinstance(part, EncodedSet)]
    if not parts:
        return True, ""
    if augmentation.crop_scale is not None:
        return False, "recipe.augmentation.crop_scale cuts views from whole images"
    if runtime.resident is False:
        return False, ""
    needed, free = sum(len(part) * part.form.nbytes for part in parts), free_bytes()
    if runtime.device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(runtime.device)[0])
    form = ".1f" if needed >= 1e9 else ".1g"
    sizes = f"decoded images take {needed / 1e9:{form}} GB of memory, and {free / 1e9:.1f} GB are free"
    if runtime.resident is True and needed > free:
        raise DataError(f"dataset.resident=true: {sizes}")
    if runtime.resident is True:
        return True, ""
    return needed <= SHARE_OF_MEMORY * free, sizes


def describe_dataset(node: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A dataset node with its open fields filled: what a config leaves null (`folder`) is found in the data.

    So are the facts of data that is not what the config's identity claims.

    Raises:
        ValueError: the loader cannot be resolved.
        kdrun.data.DataError: open fields, and no readable data.
    """
    found_in_data = ("identity", "num_classes", "train_size", "test_size")
    loader = resolve(node["_target_"], Splits)
    is_claimed = not node.get("skip_corrupt") and claims_identity(loader, root)
    if node.get("identity") is not None and not is_claimed:
        node = {**node, **dict.fromkeys(found_in_data)}
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
    """A dataset as its config says."""
    splits: Splits = call_with(loader, {**node, "root": root})
    return splits


def places(node: Mapping[str, Any]) -> tuple[tuple[str, str | None], ...]:
    """The options of a dataset that say where its data is, beside `root`; like it they are not part of a run."""
    return tuple((name, node[name]) for name in PLACES if name in node)


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


def load_splits(dataset: DatasetSpec, root: Path, places: Iterable[tuple[str, str | None]] = ()) -> Splits:
    """Reads a dataset, verified, through its loader.

    Raises:
        kdrun.data.DataError: absent and unreachable, damaged, or not what the spec says.
    """
    offered = {name: value for name, value in vars(dataset).items() if name != "source"}
    splits: Splits = call_with(resolve(dataset.target, Splits), {**offered, **dict(places), "root": root})
    _check(splits, dataset)
    found = (len(splits.train.labels), len(splits.test.labels))
    if found != (dataset.train_size, dataset.test_size):
        raise DataError(
            f"{dataset.name} has {found[0]} training and {found[1]} test {dataset.example}s, "
            f"not dataset.train_size={dataset.train_size} and dataset.test_size={dataset.test_size}"
        )
    if dataset.identity.startswith((CONTENT_HASH, FILES_HASH)) and dataset.identity != identity(splits):
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
