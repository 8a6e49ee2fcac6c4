"""Datasets of Hugging Face's library `datasets`, from disk or its local cache; nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdrun.files import expanded, read_regular, sha256

from ..decoding import encoded_splits
from ..encoded import Form, file_state
from ..errors import DataError
from ..pixels import file_limit
from ..splits import Splits, streamable

_TEST_SPLITS = ("test", "validation", "val", "valid")


@streamable
def hf(
    path: str,
    image_size: int,
    in_channels: int,
    train_split: str = "train",
    test_split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    resize_size: int | None = None,
    skip_corrupt: bool = False,
) -> Splits:
    """A dataset of images, each of one class.

    Args:
        path: a directory that `save_to_disk` wrote, one with files that `load_dataset` reads (Parquet, Arrow, images),
            or the name of a dataset in the local cache.
        image_size: height and width in pixels.
        in_channels: 1 (grey) or 3 (RGB).
        train_split: of the training images.
        test_split: of the test images; None is the first of test, validation, val and valid.
        image_column: None is the one column of images.
        label_column: of class labels, integers or text; None is the one column of class labels.
        resize_size: of the shorter side before the centre is cut out; None is `image_size`.
        skip_corrupt: whether images that cannot be read are left out.

    Raises:
        ValueError: a size out of its range.
        DataError: absent, without these splits or columns, or the package is not installed.
    """
    form, found = Form(image_size, in_channels, resize_size), _load(path)
    test_split = test_split or next((name for name in _TEST_SPLITS if name in found), _TEST_SPLITS[0])
    if missing := [name for name in (train_split, test_split) if name not in found]:
        raise DataError(f"dataset.path={path}: has the splits {', '.join(found)}, and not {', '.join(missing)}")
    parts = [found[train_split], found[test_split]]
    image_column = _column(parts[0], "image_column", image_column, "Image", path)
    label_column = _column(parts[0], "label_column", label_column, "ClassLabel", path)
    if missing := [name for name in (image_column, label_column) if name not in parts[1].column_names]:
        raise DataError(f"dataset.path={path}: {test_split} has no column {', '.join(missing)}")
    labels = [value for part in parts for value in part[label_column][:]]
    names, others = (getattr(part.features[label_column], "names", None) for part in parts)
    if names != others:
        raise DataError(
            f"dataset.path={path}: the classes of {label_column} in {test_split} are not those of {train_split} in the "
            "same order"
        )
    if None in labels:
        raise DataError(f"dataset.path={path}: {label_column} is empty in row {labels.index(None)}")
    if names is None:
        values = sorted(set(labels))
        numbers = {value: number for number, value in enumerate(values)}
        names, labels = [str(value) for value in values], [numbers[value] for value in labels]
    store = _Rows(path, parts, image_column)
    return encoded_splits(store, labels, len(parts[0]), tuple(names), form, skip_corrupt=skip_corrupt)


def _load(path: str) -> Any:
    """The splits by name."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the library is imported
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"dataset=hf: needs the package datasets: pip install 'kdrun[hf]' ({error})") from error
    datasets.disable_progress_bars()
    place = expanded(path)
    try:
        if any((place / name).exists() for name in ("dataset_dict.json", "dataset_info.json")):
            found = datasets.load_from_disk(str(place))
        else:
            found = datasets.load_dataset(str(place) if place.exists() else path)
    except Exception as error:  # of many kinds
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"dataset.path={path}: cannot be loaded without a download: {reason}") from error
    if not isinstance(found, dict):
        raise DataError(f"dataset.path={path}: is one split; needs a training and a test split (DatasetDict)")
    return found


def _column(part: Any, option: str, name: str | None, kind: str, path: str) -> str:
    """The column of this name, or the one of a kind."""
    if name is not None and name not in part.column_names:
        raise DataError(f"dataset.{option}={name}: dataset.path={path} has {', '.join(part.column_names)}")
    fitting = [each for each, feature in part.features.items() if type(feature).__name__ == kind]
    if name is None and len(fitting) != 1:
        raise DataError(
            f"dataset.path={path}: has {len(fitting)} columns of type {kind}; dataset.{option}=NAME selects one of "
            f"{', '.join(part.column_names)}"
        )
    return name or fitting[0]


class _Rows:
    """A column of encoded images of several splits, in Arrow's memory-mapped files."""

    digests: Tensor | None = None

    def __init__(self, path: str, parts: Sequence[Any], column: str) -> None:
        import datasets
        import pyarrow

        parts = [part.flatten_indices().cast_column(column, datasets.Image(decode=False)) for part in parts]
        self.key = path
        self._files = [file["filename"] for part in parts for file in part.cache_files]
        self._fingerprints = [part._fingerprint for part in parts]
        chunks = [chunk for part in parts for chunk in part.data.column(column).chunks]
        self._images = pyarrow.chunked_array(chunks)

    def __len__(self) -> int:
        return len(self._images)

    def name(self, position: int) -> str:
        return f"{self.key}: row {position} ({self._images[position]['path']})"

    def read(self, position: int) -> bytes:
        row = self._images[position].as_py()
        content: bytes = row["bytes"] if row["bytes"] is not None else read_regular(row["path"], file_limit())
        return content

    def states(self) -> Tensor:
        files = [file_state(name) for name in self._files]
        fingerprint = int(sha256(repr([files, self._fingerprints]).encode())[:15], 16)
        changed = max((state[4] for state in files), default=0)
        rows: list[tuple[int, ...]] = [(fingerprint, 0, 0, 0, changed, position) for position in range(len(self))]
        for position, image in enumerate(self._images):
            if not image["bytes"].is_valid:
                rows[position] = file_state(image["path"].as_py() or "", position)
        return torch.tensor(rows, dtype=torch.int64).view(-1, 6)
