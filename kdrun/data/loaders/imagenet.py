"""ImageNet (ILSVRC 2012, Russakovsky et al. 2015): 1000 classes in torchvision's layout, or any part of it."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.files import MIB, read_regular, sha256

from ..decoding import encoded_splits
from ..downloads import reading, visible_directories
from ..encoded import Files, Form
from ..errors import DataError
from ..splits import Splits, claimed_where, never_downloaded, streamable

NUM_IMAGES = {"train": 1_281_167, "val": 50_000}
WORDNET_IDS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
"""Of the 1000 WordNet ids, sorted, one a line."""

_WITHIN = ("", "imagenet", "ILSVRC/Data/CLS-LOC", "ILSVRC2012")
_WORDNET_ID = re.compile(r"n\d{8}")
_IMAGES = (".jpeg", ".jpg", ".png")
_DEVKIT = "ILSVRC2012_devkit_t12/data"
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"
_TEXT_LIMIT = 16 * MIB


def is_official(root: Path) -> bool:
    """Whether images and classes have the numbers and WordNet ids of ILSVRC 2012; also where there is no data yet."""
    place = _place(root)
    if place is None:
        return True
    ids = _wordnet_ids(place)
    if not _are_official(ids):
        return False
    counts = {"train": sum(len(_names(place / "train" / name)) for name in ids)}
    counts["val"] = len(_names(place / "val")) + sum(len(_names(place / "val" / name)) for name in ids)
    return counts == NUM_IMAGES


def _found(root: Path) -> Path:
    """As `_place`; raises `DataError` where there is none."""
    place = _place(root)
    if place is None:
        raise DataError(
            f"dataset.root={root}: needs train/ with a directory of images for each WordNet id (n01440764, ...) and "
            "val/. ImageNet is not downloaded: its terms are accepted at https://image-net.org, which has "
            "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz; "
            "torchvision.datasets.ImageNet(root) unpacks them"
        )
    return place


@streamable
@claimed_where(is_official)
@never_downloaded(_found)
def imagenet(
    root: Path,
    image_size: int = 224,
    in_channels: int = 3,
    resize_size: int | None = 256,
    skip_corrupt: bool = False,
) -> Splits:
    """`root/train/WNID/*.JPEG`, and the validation set, which is the test set: the published one has no labels.

    Validation images are in `root/val/WNID/`, or in `root/val/` with the devkit's ground truth in
    `root/ILSVRC2012_devkit_t12/`; in the order of their file names. Classes are numbered in the order of their WordNet
    ids, as in torchvision, whose names they have. A part of the classes has their ids as names.

    Args:
        root: of the data, or the directory that has `imagenet/` or `ILSVRC/Data/CLS-LOC/`.
        image_size: height and width in pixels.
        in_channels: 1 (grey) or 3 (RGB).
        resize_size: of the shorter side before the centre is cut out.
        skip_corrupt: whether images that cannot be read are left out.

    Raises:
        ValueError: a size out of its range.
        DataError: absent, incomplete, or with other classes in its validation set.
    """
    form, place = Form(image_size, in_channels, resize_size), _found(root)
    ids = _wordnet_ids(place)
    train = [
        (f"train/{name}/{file}", label) for label, name in enumerate(ids) for file in _files(place / "train" / name)
    ]
    test = _validation_images(place, ids)
    names, labels = zip(*train, *sorted(test, key=lambda image: (os.path.basename(image[0]), image[0])), strict=True)
    return encoded_splits(Files(place, names), labels, len(train), _class_names(ids), form, skip_corrupt=skip_corrupt)


def _place(root: Path) -> Path | None:
    """The directory with `train/` and `val/`, of `root` and those that ImageNet unpacks to; None without."""
    for place in (root / within for within in _WITHIN):
        if _wordnet_ids(place) and (place / "val").is_dir():
            return place
    return None


def _wordnet_ids(place: Path) -> list[str]:
    """The WordNet ids that have training images, sorted."""
    names = (path.name for path in visible_directories(place / "train"))
    return sorted(name for name in names if _WORDNET_ID.fullmatch(name))


def _are_official(ids: Sequence[str]) -> bool:
    return sha256("\n".join(ids).encode()) == WORDNET_IDS_SHA256


def _class_names(ids: Sequence[str]) -> tuple[str, ...]:
    """Torchvision's names of the 1000 classes; the ids of others."""
    if not _are_official(ids):
        return tuple(ids)
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return tuple(_IMAGENET_CATEGORIES)


def _names(directory: Path) -> list[str]:
    """The image files of a directory, sorted; none where it is absent. Hidden files are left out."""
    try:
        found = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in found if name.lower().endswith(_IMAGES) and name[0] != ".")


def _files(directory: Path) -> list[str]:
    """As `_names`; raises `DataError` where there are none."""
    found = _names(directory)
    if not found:
        raise DataError(f"{directory}: has no images ({', '.join(_IMAGES)})")
    return found


def _validation_images(place: Path, ids: Sequence[str]) -> list[tuple[str, int]]:
    """(path, label) of the validation images, in any order."""
    labels = {name: label for label, name in enumerate(ids)}
    sorted_by_class = [path.name for path in visible_directories(place / "val") if _WORDNET_ID.fullmatch(path.name)]
    if sorted_by_class:
        if others := sorted(set(sorted_by_class) ^ set(ids)):
            where = "val" if others[0] in sorted_by_class else "train"
            raise DataError(f"{place}: {len(others)} class(es) are in one split only, the first is {where}/{others[0]}")
        return [(f"val/{name}/{file}", labels[name]) for name in ids for file in _files(place / "val" / name)]
    files = _files(place / "val")
    truth = _ground_truth(place)
    if len(truth) != len(files):
        raise DataError(f"{place / 'val'}: has {len(files)} images, and {_TRUTH} has {len(truth)} labels")
    if unknown := sorted(set(truth) - set(ids)):
        raise DataError(f"{place}: {len(unknown)} class(es) of {_TRUTH} have no training images, as {unknown[0]}")
    return [(f"val/{file}", labels[name]) for file, name in zip(files, truth, strict=True)]


def _ground_truth(place: Path) -> list[str]:
    """The WordNet id of each validation image, in the order of the file names, from the devkit."""
    directory = next((path for path in (place / _DEVKIT, place.parent / _DEVKIT) if path.is_dir()), None)
    if directory is None:
        raise DataError(
            f"{place / 'val'}: has neither a directory for each class nor, beside it, {_DEVKIT}/ with {_TRUTH} and "
            f"{_META}, as ILSVRC2012_devkit_t12.tar.gz unpacks"
        )
    contents = []
    for path in (directory / _TRUTH, directory / _META):
        with reading(path):
            contents.append(read_regular(path, _TEXT_LIMIT))
    try:
        ids = _synsets(contents[1])
        return [ids[int(number)] for number in contents[0].split()]
    except Exception as error:  # loadmat raises nearly anything for a damaged file
        raise DataError(f"{directory}: {_TRUTH} and {_META} are damaged or do not fit together ({error!r})") from error


def _synsets(content: bytes) -> Mapping[int, str]:
    """The WordNet ids of the classes by their numbers in ILSVRC 2012, from `meta.mat`; classes have no children."""
    from scipy.io import loadmat

    file: Any = io.BytesIO(content)  # scipy's types have names of files alone
    rows = loadmat(file, squeeze_me=True)["synsets"]
    return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if int(row["num_children"]) == 0}
