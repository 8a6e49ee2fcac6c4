"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), read from the official Python files."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..downloads import Archive, find, unpack_archive, verified_bytes
from ..splits import ImageSet, Splits


@dataclass(frozen=True)
class PickledFiles:
    """A dataset in the pickled files of its archive.

    Attributes:
        archive: what they come in.
        train: MD5 of the files with training images, by file name.
        test: likewise for the test images.
        names: likewise for the one file with the class names.
        label_key: where an image file has its labels.
        names_key: where the class names are.
    """

    archive: Archive
    train: Mapping[str, str]
    test: Mapping[str, str]
    names: Mapping[str, str]
    label_key: bytes
    names_key: bytes


CIFAR10 = PickledFiles(
    archive=Archive(
        title="CIFAR-10",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        directory="cifar-10-batches-py",
        limit=200_000_000,
    ),
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    names={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
    label_key=b"labels",
    names_key=b"label_names",
)

CIFAR100 = PickledFiles(
    archive=Archive(
        title="CIFAR-100",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        directory="cifar-100-python",
        limit=200_000_000,
    ),
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    names={"meta": "7973b15100ade9c7d40fb424638fde48"},
    label_key=b"fine_labels",
    names_key=b"fine_label_names",
)


def cifar10(root: Path) -> Splits:
    """50,000 + 10,000 colour images, 32x32, 10 classes, from `root/cifar-10-batches-py/`.

    Raises:
        DataError: absent and not to be downloaded, incomplete, or not the official files.
    """
    return _load(root, CIFAR10)


def cifar100(root: Path) -> Splits:
    """50,000 + 10,000 colour images, 32x32, 100 classes, from `root/cifar-100-python/`.

    Raises:
        DataError: absent and not to be downloaded, incomplete, or not the official files.
    """
    return _load(root, CIFAR100)


def _load(root: Path, source: PickledFiles) -> Splits:
    archive, md5 = source.archive, {**source.train, **source.test, **source.names}
    place = find(root, archive.directory, list(md5), title=archive.title, archive=archive.name)
    place = place or unpack_archive(archive, root)
    content = {name: _unpickled(place / name, md5[name]) for name in md5}
    (names_file,) = source.names
    return Splits(
        train=_image_set([content[name] for name in source.train], source.label_key),
        test=_image_set([content[name] for name in source.test], source.label_key),
        class_names=tuple(name.decode("ascii") for name in content[names_file][source.names_key]),
    )


def _unpickled(path: Path, md5: str) -> dict[bytes, Any]:
    """Unpickles a file after its checksum has been found to be the official one, never before.

    The strings in it are those of Python 2; as bytes they need no decoding, which is ten times faster for the images.
    """
    content: dict[bytes, Any] = pickle.loads(verified_bytes(path, md5), encoding="bytes")
    return content


def _image_set(parts: Sequence[Mapping[bytes, Any]], label_key: bytes) -> ImageSet:
    """Joins the files of one split; each has rows of 3072 bytes, the three colour planes one after the other."""
    planes = torch.cat([torch.from_numpy(part[b"data"]) for part in parts]).view(-1, 3, 32, 32)
    labels = torch.tensor([label for part in parts for label in part[label_key]])
    return ImageSet(planes.permute(0, 2, 3, 1).contiguous(), labels)
