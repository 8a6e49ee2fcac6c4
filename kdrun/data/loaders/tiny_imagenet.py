"""Tiny-ImageNet (Stanford CS231n): 200 ImageNet classes at 64x64, as the archive unpacks or sorted by class."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdrun.files import MIB, read_regular, write_atomically

from ..decoding import encoded_splits
from ..digests import digests_of
from ..downloads import Archive, find, reading, unpack_archive, visible_directories
from ..encoded import Files, Form
from ..errors import DataError
from ..splits import Splits, claimed_where, streamable

ARCHIVE = Archive(
    title="Tiny-ImageNet",
    url="https://cs231n.stanford.edu/tiny-imagenet-200.zip",
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    directory="tiny-imagenet-200",
    limit=500_000_000,
)
NUM_CLASSES, TRAIN_PER_CLASS, TEST_PER_CLASS = 200, 500, 50
UNPACKED = ".kdrun-unpacked"
"""A file in the directory, with the digest of the images and labels as the verified archive unpacked to them."""

_NEEDED = ("train", "val")
_WORDNET_ID = re.compile(r"n\d+")
_IMAGES = (".jpeg", ".jpg", ".png")
_ANNOTATIONS = "val/val_annotations.txt"
_TEXT_LIMIT = 16 * MIB
"""Bytes of a text file, at most; the largest of the archive, words.txt, has 3 MB."""


@dataclass(frozen=True)
class _Listing:
    """The image files of a directory.

    Attributes:
        root: base of the paths.
        train: (relative path, label) of each training image, in a fixed order.
        test: likewise.
        class_names: by label.
    """

    root: Path
    train: Sequence[tuple[str, int]]
    test: Sequence[tuple[str, int]]
    class_names: tuple[str, ...]

    @functools.cached_property
    def files(self) -> Files:
        """Training images first."""
        return Files(self.root, [name for name, _ in (*self.train, *self.test)])


def has_official_bytes(root: Path) -> bool:
    """Whether the data will be that of the official archive: it is yet to be unpacked, or kdrun unpacked it."""
    place = _place(root)
    return place is None or (place / UNPACKED).exists()


@streamable
@claimed_where(has_official_bytes)
def tiny_imagenet(root: Path, identity: str | None = None) -> Splits:
    """100,000 + 10,000 colour images, 64x64, 200 classes, from `root/tiny-imagenet-200/` or `root` itself.

    The test set is the published validation set, as in the literature: the test images have no labels. It is read from
    `val/images/` with `val/val_annotations.txt`, from `val/images/CLASS/` or from `val/CLASS/`, in the order of its
    file names. Training images are in `train/CLASS/images/` or `train/CLASS/`. Classes are numbered in the order of
    their WordNet ids, those of `wnids.txt` or the names of the directories.

    Args:
        root: of the data, or of the archive to unpack; else it is downloaded there.
        identity: that of the official archive: the data must be what kdrun unpacked from it. Else it is not checked.

    Raises:
        DataError: absent and not to be downloaded, incomplete, damaged, not with the official number of images, or not
            what `identity` requires.
    """
    found = _place(root)
    place = found or unpack_archive(ARCHIVE, root)
    listing = _listing(place)
    if found is None:
        write_atomically(place / UNPACKED, f"{_digest(listing)}\n")
    elif identity == f"md5:{ARCHIVE.md5}":
        _verify(listing)
    labels = [label for _, label in (*listing.train, *listing.test)]
    return encoded_splits(listing.files, labels, len(listing.train), listing.class_names, Form(64, 3))


def _place(root: Path) -> Path | None:
    """Where the images are: `root` itself where it has classes by their WordNet ids; None where they are not here."""
    is_tree = all((root / name).is_dir() for name in _NEEDED)
    if is_tree and any(_WORDNET_ID.fullmatch(path.name) for path in visible_directories(root / "train")):
        return root
    return find(root, ARCHIVE.directory, _NEEDED, title=ARCHIVE.title, archive=ARCHIVE.name)


def _listing(place: Path) -> _Listing:
    """All images with their labels; refuses what is incomplete, before any is decoded."""
    try:
        ids = sorted(_lines(place / "wnids.txt") or [path.name for path in visible_directories(place / "train")])
        words = dict(line.split("\t", 1) for line in _lines(place / "words.txt")) or {name: name for name in ids}
        test = _test_images(place, ids)
        listing = _Listing(
            root=place,
            train=[image for label, name in enumerate(ids) for image in _images(place, f"train/{name}", label)],
            test=sorted(test, key=lambda image: (len(Path(image[0]).name), Path(image[0]).name)),
            class_names=tuple(words[name].split(",")[0] for name in ids),
        )
    except (KeyError, ValueError) as error:
        files = f"wnids.txt, words.txt and {_ANNOTATIONS}"
        raise DataError(f"{place}: {files} are damaged or do not fit together ({error!r})") from error
    _check_counts(listing)
    return listing


def _test_images(place: Path, ids: Sequence[str]) -> list[tuple[str, int]]:
    """The validation images, sorted into a directory for each class, or named with their class in a file."""
    for directory in ("val/images", "val"):
        if any((place / directory / name).is_dir() for name in ids):
            return [image for label, name in enumerate(ids) for image in _images(place, f"{directory}/{name}", label)]
    if not (place / _ANNOTATIONS).exists():
        raise DataError(f"{place}: val/ has neither a directory for each class nor {_ANNOTATIONS}, which names them")
    labels = {name: label for label, name in enumerate(ids)}
    present = {path for path, _ in _images(place, "val/images", 0)}
    annotated = [line.split("\t")[:2] for line in _lines(place / _ANNOTATIONS)]
    test = [(f"val/images/{file}", labels[wordnet_id]) for file, wordnet_id in annotated]
    if absent := [path for path, _ in test if path not in present]:
        raise DataError(f"{place}: {len(absent)} images of {_ANNOTATIONS} are not there, the first is {absent[0]}")
    return test


def _images(place: Path, directory: str, label: int) -> list[tuple[str, int]]:
    """(path, label) of the images in a directory, or in `images/` within it, sorted; no hidden files."""
    within = f"{directory}/images" if (place / directory / "images").is_dir() else directory
    try:
        names = sorted(os.listdir(place / within))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [(f"{within}/{name}", label) for name in names if name.lower().endswith(_IMAGES) and name[0] != "."]


def _lines(path: Path) -> list[str]:
    """The lines of a text file; none where it is absent."""
    with reading(path):
        return read_regular(path, _TEXT_LIMIT).decode().splitlines() if path.exists() else []


def _digest(listing: _Listing) -> str:
    """SHA-256 of the class names, and of each image's file and label."""
    digest = hashlib.sha256(repr(listing.class_names).encode())
    contents = digests_of(listing.files).numpy()
    for (path, label), content in zip((*listing.train, *listing.test), contents, strict=True):
        digest.update(f"{path} {label} {content.tobytes().hex()}\n".encode())
    return digest.hexdigest()


def _verify(listing: _Listing) -> None:
    """Compares images and labels with what the verified archive unpacked to."""
    try:
        expected = read_regular(listing.root / UNPACKED, _TEXT_LIMIT).decode("ascii").strip()
    except FileNotFoundError:
        expected = "none, since kdrun did not unpack it"
    found = _digest(listing)
    if found != expected:
        raise DataError(
            f"{listing.root}: its images and labels are not those of the official archive: digest {found}, expected "
            f"{expected}\nRemove it to have it unpacked again, or take it by its content: dataset.identity=null."
        )


def _check_counts(listing: _Listing) -> None:
    """Checks the number of classes and of images in each against the official ones."""
    if len(listing.class_names) != NUM_CLASSES:
        raise DataError(f"{listing.root}: has {len(listing.class_names)} classes, expected {NUM_CLASSES}")
    for name, split, expected in (("train", listing.train, TRAIN_PER_CLASS), ("val", listing.test, TEST_PER_CLASS)):
        counts = Counter(label for _, label in split)
        wrong = [label for label in range(NUM_CLASSES) if counts[label] != expected]
        if wrong:
            raise DataError(
                f"{listing.root}: {name} has {counts[wrong[0]]} images of class {wrong[0]} "
                f"({listing.class_names[wrong[0]]}), expected {expected}; {len(wrong)} class(es) are wrong"
            )
