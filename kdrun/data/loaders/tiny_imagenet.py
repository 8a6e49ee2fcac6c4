"""Tiny-ImageNet (Stanford CS231n): 200 ImageNet classes at 64x64, read as the official archive unpacks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..decoding import Listing, decode
from ..errors import DataError
from ..files import Archive, find, unpack_archive
from ..splits import Splits

ARCHIVE = Archive(
    title="Tiny-ImageNet",
    url="https://cs231n.stanford.edu/tiny-imagenet-200.zip",
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    directory="tiny-imagenet-200",
)
NUM_CLASSES, TRAIN_PER_CLASS, TEST_PER_CLASS = 200, 500, 50
_NEEDED = ("wnids.txt", "words.txt", "train", "val/val_annotations.txt", "val/images")


def tiny_imagenet(root: Path) -> Splits:
    """100,000 + 10,000 colour images, 64x64, 200 classes, from `root/tiny-imagenet-200/`.

    The test set is the published validation set, as in the literature: the test images have no labels. Classes are
    numbered in the order of their sorted WordNet ids. The archive is checked by its MD5 when it is unpacked here; of
    a directory that was already there, the number of images in each class is checked.

    Raises:
        DataError: absent and not to be downloaded, incomplete, damaged, or not with the official number of images.
    """
    place = find(root, ARCHIVE.directory, _NEEDED, title=ARCHIVE.title, archive=ARCHIVE.name)
    place = place or unpack_archive(ARCHIVE, root)
    try:
        listing = _listing(place)
    except (KeyError, ValueError) as error:
        files = "wnids.txt, words.txt and val/val_annotations.txt"
        raise DataError(f"{place}: {files} are damaged or do not fit together ({error!r})") from error
    _check_counts(listing)
    return decode(listing, image_size=64, in_channels=3)


def _listing(place: Path) -> Listing:
    """The images that the text files of the archive name, labelled."""
    ids = sorted(_lines(place / "wnids.txt"))
    labels = {wordnet_id: label for label, wordnet_id in enumerate(ids)}
    words = dict(line.split("\t", 1) for line in _lines(place / "words.txt"))
    return Listing(
        root=place,
        train=[
            (path.relative_to(place).as_posix(), label)
            for wordnet_id, label in labels.items()
            for path in sorted((place / "train" / wordnet_id / "images").glob("*.JPEG"))
        ],
        test=[
            (f"val/images/{name}", labels[wordnet_id])
            for name, wordnet_id, *_ in (line.split("\t") for line in _lines(place / "val/val_annotations.txt"))
        ],
        class_names=tuple(words[wordnet_id].split(",")[0] for wordnet_id in ids),
    )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _check_counts(listing: Listing) -> None:
    """Checks the number of classes and of images in each against the official ones."""
    if len(listing.class_names) != NUM_CLASSES:
        raise DataError(f"{listing.root}: wnids.txt has {len(listing.class_names)} classes, expected {NUM_CLASSES}")
    for name, split, expected in (("train", listing.train, TRAIN_PER_CLASS), ("val", listing.test, TEST_PER_CLASS)):
        counts = Counter(label for _, label in split)
        wrong = [label for label in range(NUM_CLASSES) if counts[label] != expected]
        if wrong:
            raise DataError(
                f"{listing.root}: {name} has {counts[wrong[0]]} images of class {wrong[0]} "
                f"({listing.class_names[wrong[0]]}), expected {expected}; {len(wrong)} class(es) are wrong"
            )
