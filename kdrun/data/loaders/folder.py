"""Any directory of images with one sub-directory for each class."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..decoding import encoded_splits
from ..downloads import visible_directories
from ..encoded import Files, Form
from ..errors import DataError
from ..image_files import class_directories, composed, describe_left_out, image_files, warn_once
from ..splits import Splits, streamable

_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "val", "valid", "validation")
_WITHIN = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")
"""Where a root can have its splits: in itself, or as ImageNet unpacks."""


@streamable
def folder(
    root: Path,
    image_size: int,
    in_channels: int,
    resize_size: int | None = None,
    skip_corrupt: bool = False,
    test_split: str | None = None,
) -> Splits:
    """`root/train/CLASS/*.png` and `root/test/CLASS/*.png` (any format that Pillow reads).

    The test set is the first of `test/`, `val/`, `valid/` and `validation/` that has a class of the training images.
    Upper case is accepted, and `ILSVRC/Data/CLS-LOC/` of ImageNet within the root. Classes are numbered in the order of
    their sorted names (`kdrun.data.image_files`, which also defines which files count); images may be deeper than one
    level below their class.

    Args:
        root: of the splits.
        image_size: height and width in pixels.
        in_channels: 1 (grey) or 3 (RGB).
        resize_size: of the shorter side before the centre is cut out; None is `image_size`.
        skip_corrupt: whether images that cannot be read are left out.
        test_split: the directory of the test images; None finds it.

    Raises:
        ValueError: `in_channels` is neither 1 nor 3, or a size is out of its range.
        DataError: directories or classes are missing, there is one class only, or a class is empty.
    """
    form = Form(image_size, in_channels, resize_size)
    if test_split is not None and test_split.lower() in _TRAIN_NAMES:
        raise DataError(f"dataset.test_split={test_split}: has the training images; must be another directory")
    found = _splits(root, test_split)
    if found is None:
        missing = "" if os.path.isdir(root) else "; there is no such directory"
        near = (*Path(os.path.abspath(root)).parents[:2], *visible_directories(root))
        meant = next((f"; use dataset.root={place}" for place in near if _is_root(place, test_split)), "")
        wanted = f"the directory {test_split}/" if test_split else f"one of {', '.join(_TEST_NAMES)}"
        raise DataError(
            f"dataset.root={root}: needs a directory train/ and {wanted}, each with one sub-directory of images for "
            f"each class{missing}{meant}"
        )
    train, tests = found
    left_out: Counter[str] = Counter()
    classes = class_directories(train, left_out)
    class_names = tuple(classes)
    test = next((place for place in tests if _has_one_of(place, class_names)), tests[0])
    for place in tests[: tests.index(test)]:
        warn_once(f"{place} has none of the classes of {train}: the test set is {test}")
    test_classes = class_directories(test, left_out)
    _check_same_classes(train, class_names, test, tuple(test_classes))
    if len(class_names) < 2:
        raise DataError(f"{train}: has one class only, {class_names[0]}; there is nothing to learn")
    splits = [_labelled(root, places, left_out) for places in (classes, test_classes)]
    if left_out:
        count = left_out.total()
        entries = f"{count} {'entry' if count == 1 else 'entries'}"
        warn_once(f"dataset.root={root}: {entries} left out: {describe_left_out(left_out)}")
    names, labels = (itertools.chain.from_iterable(column) for column in zip(*splits, strict=True))
    num_train = len(splits[0][0])
    return encoded_splits(Files(root, names), list(labels), num_train, class_names, form, skip_corrupt=skip_corrupt)


def _splits(root: Path, test_split: str | None) -> tuple[Path, list[Path]] | None:
    """The directory of the training images, and the candidates for the test set's, the most usual name first."""
    for within in _WITHIN:
        # Of a name in both cases the one in lower case is used, which is sorted last.
        directories = {path.name.lower(): path for path in visible_directories(root / within)}
        train = [directories[name] for name in _TRAIN_NAMES if name in directories]
        wanted = _TEST_NAMES if test_split is None else (test_split.lower(),)
        tests = [directories[name] for name in wanted if name in directories]
        if train and tests:
            return train[0], tests
    return None


def _has_one_of(split: Path, class_names: Sequence[str]) -> bool:
    """Whether a split has a class: a flat one of images without labels has none."""
    return any(composed(path.name) in class_names for path in visible_directories(split))


def _is_root(place: Path, test_split: str | None) -> bool:
    """Whether a directory can be followed as a root: it has both splits, with classes in common."""
    found = _splits(place, test_split)
    if found is None:
        return False
    names = [composed(path.name) for path in visible_directories(found[0])]
    return any(_has_one_of(split, names) for split in found[1])


def _check_same_classes(train: Path, train_names: Sequence[str], test: Path, test_names: Sequence[str]) -> None:
    lines = [
        f"only in {split}: {', '.join(sorted(set(names) - set(others)))}"
        for split, names, others in ((train, train_names, test_names), (test, test_names, train_names))
        if set(names) - set(others)
    ]
    if lines:
        raise DataError("the classes of training and test images differ\n  " + "\n  ".join(lines))


def _labelled(root: Path, classes: Mapping[str, Path], left_out: Counter[str]) -> tuple[list[str], list[int]]:
    """The paths relative to `root` and the labels of a split's images, class by class in sorted order."""
    from tqdm import tqdm

    names: list[str] = []
    labels: list[int] = []
    shown = tqdm(classes.values(), "listing images", unit=" classes", delay=2, leave=False, disable=None)
    for label, directory in enumerate(shown):
        others: Counter[str] = Counter()
        found = image_files(directory, others)
        if not found:
            raise DataError(f"{directory}: has no images ({describe_left_out(others) or 'no files at all'})")
        left_out.update(others)
        place = directory.relative_to(root).as_posix()
        names += [f"{place}/{name}" for name in found]
        labels += [label] * len(found)
    return names, labels
