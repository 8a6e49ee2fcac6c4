"""Any directory of images with one sub-directory for each class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..decoding import Listing, decode
from ..errors import DataError
from ..files import visible_directories
from ..image_files import class_directories, describe_left_out, image_files, warn_once
from ..splits import Splits

_TEST_NAMES = ("test", "val", "validation")


def folder(root: Path, image_size: int, in_channels: int) -> Splits:
    """`root/train/CLASS/*.png` and `root/test/CLASS/*.png` (or `val/`, `validation/`; any format that Pillow reads).

    Classes are numbered in the order of their sorted names (`kdrun.data.image_files`, which also says which files
    count); images may be deeper than one level below their class. Decoded once, then read from a cache
    (`kdrun.data.decoding`).

    Raises:
        ValueError: `in_channels` is neither 1 nor 3, or `image_size` is not positive.
        DataError: directories or classes are missing, there is one class only, a class is empty, or images cannot be
            read.
    """
    train = root / "train"
    test = _test_directory(root)
    if test is None or not _is_root(root):
        near = (*Path(os.path.abspath(root)).parents[:2], *visible_directories(root))
        meant = next((f"; use dataset.root={place}" for place in near if _is_root(place)), "")
        raise DataError(
            f"dataset.root={root}: needs a directory train/ and one of {', '.join(_TEST_NAMES)}, each with one "
            f"sub-directory of images for each class{meant}"
        )
    left_out: Counter[str] = Counter()
    classes, test_classes = (class_directories(split, left_out) for split in (train, test))
    class_names = tuple(classes)
    _check_same_classes(train, class_names, test, tuple(test_classes))
    if len(class_names) < 2:
        raise DataError(f"{train}: has one class only, {class_names[0]}; there is nothing to learn")
    listing = Listing(root, _labelled(root, classes, left_out), _labelled(root, test_classes, left_out), class_names)
    if left_out:
        warn_once(f"dataset.root={root}: {left_out.total()} files left out: {describe_left_out(left_out)}")
    return decode(listing, image_size=image_size, in_channels=in_channels)


def _test_directory(root: Path) -> Path | None:
    return next((root / name for name in _TEST_NAMES if os.path.isdir(root / name)), None)


def _is_root(place: Path) -> bool:
    return os.path.isdir(place / "train") and _test_directory(place) is not None


def _check_same_classes(train: Path, train_names: Sequence[str], test: Path, test_names: Sequence[str]) -> None:
    lines = [
        f"only in {split}: {', '.join(sorted(set(names) - set(others)))}"
        for split, names, others in ((train, train_names, test_names), (test, test_names, train_names))
        if set(names) - set(others)
    ]
    if lines:
        raise DataError("the classes of training and test images differ\n  " + "\n  ".join(lines))


def _labelled(root: Path, classes: Mapping[str, Path], left_out: Counter[str]) -> list[tuple[str, int]]:
    """(path relative to `root`, label) of every image of a split, class by class in sorted order."""
    labelled = []
    for label, directory in enumerate(classes.values()):
        others: Counter[str] = Counter()
        found = image_files(directory, others)
        if not found:
            raise DataError(f"{directory}: has no images ({describe_left_out(others) or 'no files at all'})")
        left_out.update(others)
        place = directory.relative_to(root).as_posix()
        labelled += [(f"{place}/{name}", label) for name in found]
    return labelled
