"""Any directory of images with one sub-directory for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..decoding import EXTENSIONS, Listing, decode
from ..errors import DataError
from ..files import visible_directories
from ..splits import Splits

_TEST_NAMES = ("test", "val", "validation")


def folder(root: Path, image_size: int, in_channels: int) -> Splits:
    """`root/train/CLASS/*.png` and `root/test/CLASS/*.png` (or `val/`, `validation/`; any common image format).

    Classes are numbered in the order of their sorted names. Hidden files and directories are passed over; images
    may lie deeper than one level below their class. Decoded once, then read from a cache (`kdrun.data.decoding`).

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
    class_names = _class_names(train)
    _check_same_classes(train, class_names, test, _class_names(test))
    if len(class_names) < 2:
        raise DataError(f"{train}: has one class only, {class_names[0]}; there is nothing to learn")
    return decode(
        Listing(root, _labelled(root, train, class_names), _labelled(root, test, class_names), tuple(class_names)),
        image_size=image_size,
        in_channels=in_channels,
    )


def _test_directory(root: Path) -> Path | None:
    return next((root / name for name in _TEST_NAMES if os.path.isdir(root / name)), None)


def _is_root(place: Path) -> bool:
    return os.path.isdir(place / "train") and _test_directory(place) is not None


def _class_names(split: Path) -> list[str]:
    names = sorted(entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{split}: has no sub-directories; it needs one for each class")
    return names


def _check_same_classes(train: Path, train_names: Sequence[str], test: Path, test_names: Sequence[str]) -> None:
    lines = [
        f"only in {split}: {', '.join(sorted(set(names) - set(others)))}"
        for split, names, others in ((train, train_names, test_names), (test, test_names, train_names))
        if set(names) - set(others)
    ]
    if lines:
        raise DataError("the classes of training and test images differ\n  " + "\n  ".join(lines))


def _labelled(root: Path, split: Path, class_names: Sequence[str]) -> list[tuple[str, int]]:
    """(path relative to `root`, label) of every image of a split, in sorted order."""
    return [(name, label) for label, class_name in enumerate(class_names) for name in _images(root, split / class_name)]


def _images(root: Path, directory: Path) -> list[str]:
    found = []
    for parent, directories, names in os.walk(directory, followlinks=True):
        directories[:] = [name for name in directories if not name.startswith(".")]
        wanted = [name for name in names if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
        found += [(Path(parent) / name).relative_to(root).as_posix() for name in wanted]
    if not found:
        raise DataError(f"{directory}: has no images ({', '.join(EXTENSIONS)})")
    return sorted(found)
