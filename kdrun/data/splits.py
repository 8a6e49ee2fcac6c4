"""The data types that loaders return, and the selection of a run's training, validation and test examples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from kdrun.seeds import mix

from .encoded import EncodedSet
from .errors import DataError
from .randomness import uniform32

CONTENT_HASH = "content-sha256"
"""The prefix of the identities of data in memory."""

FILES_HASH = "files-sha256"
"""The prefix of the identities of encoded images."""

Loader = TypeVar("Loader", bound=Callable[..., "Splits"])


@dataclass(frozen=True)
class ImageSet:
    """Decoded images with their labels.

    Attributes:
        images: uint8 `[N, H, W, C]`, 0 to 255.
        labels: int64 `[N]`, class indices.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> ImageSet:
        """The images at the positions `index` (int64 `[M]`), in that order."""
        return ImageSet(self.images[index], self.labels[index])

    @property
    def classes(self) -> Tensor:
        """int64 `[N]`: of each image, for choices that are the same share of every class."""
        return self.labels

    @property
    def content(self) -> tuple[Tensor, Tensor]:
        return self.images, self.labels

    @property
    def image_size(self) -> int:
        return self.images.shape[1]

    def name(self, position: int) -> str:
        """The place of an image, for messages."""
        return f"image {position}"

    def pixels(self, position: int, *, whole: bool = False) -> Tensor:
        """An image, uint8 `[H, W, C]`."""
        return self.images[position]


@dataclass(frozen=True)
class SequenceSet:
    """Sequences of tokens with their labels.

    Attributes:
        tokens: int64 `[N, L]`; 0 is padding.
        labels: int64, class indices: `[N]`, or `[N, L]` with one for each token.
    """

    tokens: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> SequenceSet:
        """The sequences at the positions `index` (int64 `[M]`), in that order."""
        return SequenceSet(self.tokens[index], self.labels[index])

    @property
    def classes(self) -> Tensor:
        """int64 `[N]`: of each sequence; all of one where every token has its own."""
        return self.labels if self.labels.ndim == 1 else self.labels.new_zeros(len(self))

    @property
    def content(self) -> tuple[Tensor, Tensor]:
        return self.tokens, self.labels


Examples = ImageSet | SequenceSet | EncodedSet


@dataclass(frozen=True)
class Splits:
    """A dataset as published: its training set, its test set and the names of its classes.

    A loader is a function that returns it, of any options in the dataset's YAML:

    >>> def stripes(image_size: int, train_size: int = 6) -> Splits:
    ...     images = torch.zeros(train_size, image_size, image_size, 1, dtype=torch.uint8)
    ...     images[::2, ::2], images[1::2, :, ::2] = 255, 255
    ...     part = ImageSet(images, torch.arange(train_size) % 2)
    ...     return Splits(train=part, test=part, class_names=("horizontal", "vertical"))
    >>> check_images(stripes(8), num_classes=2, in_channels=1, image_size=8)
    >>> select(stripes(8), val_fraction=1 / 3).train.labels.bincount()
    tensor([2, 2])

    Attributes:
        left_out: how many training and test images are left out because they cannot be read; None where none may be.
    """

    train: Examples
    test: Examples
    class_names: tuple[str, ...]
    left_out: tuple[int, int] | None = None


@dataclass(frozen=True)
class Selected:
    """The examples of a dataset that a run uses.

    Attributes:
        train: the training examples.
        val: the held-out examples; None when none are.
        test: the whole test set.
        rest: of a specialist, how many images of other classes it trains on, and from how many they are drawn; else
            None.
    """

    train: Examples
    val: Examples | None
    test: Examples
    rest: tuple[int, int] | None = None


def select(
    splits: Splits,
    *,
    train_fraction: float = 1.0,
    val_fraction: float = 0.0,
    classes: Sequence[int] | None = None,
    special: Sequence[int] | None = None,
    special_seed: int = 0,
) -> Selected:
    """Chooses the training and validation examples of a run; the test set is always the whole one.

    The validation images are held out first, so they are the same for every `train_fraction`, and like the test
    set they keep every class: `classes` restricts the training images only.

    Args:
        splits: the dataset.
        train_fraction: share of the training images (after the hold-out) to train on, in (0, 1], stratified.
        val_fraction: share of the training images to hold out, in [0, 1), stratified. Every class with at least
            two images gives at least one and keeps at least one.
        classes: class indices to train on, or None for all: the transfer set of Hinton, Vinyals and Dean (2015,
            section 3), where a student learns of the missing classes through its teacher alone. Labels stay.
        special: class indices of a specialist (section 5), or None: of what is chosen so far, all images of these
            classes and as many of the others, drawn evenly (all, where they are fewer).
        special_seed: another seed draws others.

    Raises:
        DataError: fewer than two images are left to train on, or a specialist has none of its classes or of others.
    """
    labels = splits.train.classes
    held_out = _held_out(labels, val_fraction)
    remaining = (~held_out).nonzero().flatten()
    train = remaining[stratified_subset(labels[remaining], train_fraction)]
    if classes is not None:
        train = train[torch.isin(labels[train], torch.tensor(list(classes)))]
    rest = None
    if special is not None:
        train, rest = _half_special(train, labels, special, special_seed)
    if len(train) < 2:
        raise DataError(
            f"{len(train)} training image(s) are left by dataset.train_fraction={train_fraction!r} and "
            f"dataset.classes={list(classes) if classes else 'null'}, at least 2 are needed"
        )
    val = splits.train.subset(held_out.nonzero().flatten()) if val_fraction else None
    whole = len(train) == len(labels)
    return Selected(splits.train if whole else splits.train.subset(train), val, splits.test, rest)


def stratified_subset(labels: Tensor, fraction: float, seed: int = 0) -> Tensor:
    """Positions of a share of the images, the same share of every class.

    A class with n images gives `round(fraction * n)` of them, at least one. The choice is a function of (labels,
    seed) alone, and a smaller fraction gives a subset of what a larger one gives.

    Args:
        labels: int64 `[N]`.
        fraction: in (0, 1].
        seed: another seed gives another choice.

    Returns:
        int64 `[M]`, increasing.
    """
    quota = _share(labels.bincount(), fraction).clamp(min=1)
    return (_rank_in_class(labels, mix("subset", seed)) < quota[labels]).nonzero().flatten()


def _half_special(train: Tensor, labels: Tensor, special: Sequence[int], seed: int) -> tuple[Tensor, tuple[int, int]]:
    """Of the positions `train`, those of special classes and as many of the others; how many of the others, of all."""
    inside = torch.isin(labels[train], torch.tensor(list(special)))
    own, others = train[inside], train[~inside]
    if not len(own) or not len(others):
        raise DataError(
            f"a specialist for classes {list(special)} has {len(own)} training image(s) of these and {len(others)} of "
            "other classes; it needs at least one of each"
        )
    drawn = others[uniform32(others, mix("specialist", seed)).argsort(stable=True)[: len(own)]]
    return torch.cat([own, drawn]).sort().values, (len(drawn), len(others))


def relabelled(labels: Tensor, outputs: Sequence[Sequence[int]]) -> Tensor:
    """Labels `[N]` as the number of the output of their class.

    Args:
        labels: int64, class indices.
        outputs: the classes of each output; every class is in one of them.
    """
    numbers = torch.empty(sum(map(len, outputs)), dtype=torch.int64)
    for number, classes in enumerate(outputs):
        numbers[list(classes)] = number
    return numbers[labels]


def _held_out(labels: Tensor, fraction: float) -> Tensor:
    """Mask, bool `[N]`, of the images held out for validation."""
    counts = labels.bincount()
    quota = _share(counts, fraction).clamp(min=1).minimum(counts - 1) if fraction else torch.zeros_like(counts)
    return _rank_in_class(labels, mix("validation")) < quota[labels]


def _share(counts: Tensor, fraction: float) -> Tensor:
    """`fraction * counts`, rounded half up."""
    return (counts.double() * fraction + 0.5).floor().long()


def _rank_in_class(labels: Tensor, key: int) -> Tensor:
    """Each image's place, counted from 0, in a random order of its own class; int64 `[N]`."""
    shuffled = uniform32(torch.arange(len(labels)), key).argsort(stable=True)
    by_class, ranks = sorted_by_class(labels, shuffled)
    return torch.empty_like(labels).index_copy_(0, by_class, ranks)


def sorted_by_class(labels: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """An order `[N]` of images stably sorted by their labels `[N]`, and each one's rank in its class, from 0."""
    by_class = order[labels[order].argsort(stable=True)]
    counts = labels.bincount()
    first_of_class = counts.cumsum(0) - counts
    return by_class, torch.arange(len(labels)) - first_of_class[labels[by_class]]


def check_images(splits: Splits, *, num_classes: int, in_channels: int, image_size: int) -> None:
    """Checks that a dataset of images is what its config states.

    Raises:
        DataError: wrong shapes or types, labels out of range, fewer than two images or a single class to train on.
    """
    _check_class_names(splits, num_classes)
    for name, split in (("training", splits.train), ("test", splits.test)):
        expected = (len(split), image_size, image_size, in_channels)
        options = f"dataset.image_size={image_size} and dataset.in_channels={in_channels} with {len(split)} labels"
        if isinstance(split, EncodedSet):
            if (split.form.image_size, split.form.in_channels) != (image_size, in_channels):
                raise DataError(f"{name} images: are decoded to {split.form}, not to {options}")
        elif isinstance(split, ImageSet):
            _check_tensor(f"{name} images", split.images, torch.uint8, expected, options)
        else:
            raise DataError(f"the {name} set has no images, but dataset.image_size={image_size} needs some")
        _check_labels(name, split, expected[:1], num_classes, "1 label per image")
    if int(splits.train.labels.bincount().count_nonzero()) < 2:
        raise DataError("all training images belong to one class; there is nothing to learn")


def check_sequences(splits: Splits, *, num_classes: int, num_tokens: int, length: int, per_token: bool) -> None:
    """Checks that a dataset of sequences is what its config states.

    Raises:
        DataError: wrong shapes or types, tokens or labels out of range, fewer than two sequences.
    """
    _check_class_names(splits, num_classes)
    for name, split in (("training", splits.train), ("test", splits.test)):
        if not isinstance(split, SequenceSet):
            raise DataError(f"the {name} set has no sequences, but dataset.num_tokens={num_tokens} needs some")
        expected = (len(split), length)
        options = f"dataset.length={length} with {len(split)} labels"
        _check_tensor(f"{name} tokens", split.tokens, torch.int64, expected, options)
        shape = expected if per_token else expected[:1]
        _check_labels(name, split, shape, num_classes, f"dataset.per_token={per_token}")
        _check_range(f"{name} tokens", split.tokens, "num_tokens", num_tokens)


def _check_tensor(what: str, found: Tensor, dtype: torch.dtype, shape: tuple[int, ...], options: str) -> None:
    if found.dtype != dtype or found.shape != shape:
        raise DataError(f"{what}: {found.dtype} {list(found.shape)}, but {options} means {dtype} {list(shape)}")


def _check_labels(name: str, split: Examples, shape: tuple[int, ...], num_classes: int, options: str) -> None:
    _check_tensor(f"{name} labels", split.labels, torch.int64, shape, options)
    if len(split) < 2:
        raise DataError(f"the {name} set has {len(split)} example(s), at least 2 are needed")
    _check_range(f"{name} labels", split.labels, "num_classes", num_classes)


def _check_class_names(splits: Splits, num_classes: int) -> None:
    if len(splits.class_names) != num_classes:
        raise DataError(f"dataset.num_classes={num_classes}, but the data has {len(splits.class_names)} class names")


def _check_range(what: str, values: Tensor, option: str, count: int) -> None:
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest >= count:
        raise DataError(f"{what} run from {lowest} to {highest}, but dataset.{option}={count} allows 0 to {count - 1}")


def identity(splits: Splits) -> str:
    """The SHA-256 of both sets' images (or tokens) and labels, in order, and of the class names.

    `content-sha256:...` is over pixels or tokens, `files-sha256:...` over the SHA-256 of each encoded image: the same
    whatever the images' names and container, and known without decoding them.
    """
    digest = hashlib.sha256(repr(splits.class_names).encode())
    for split in (splits.train, splits.test):
        for tensor in split.content:
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data.cast("B"))
    is_encoded = any(isinstance(split, EncodedSet) for split in (splits.train, splits.test))
    return f"{FILES_HASH if is_encoded else CONTENT_HASH}:{digest.hexdigest()}"


def claimed_where(claims: Callable[[Path], bool]) -> Callable[[Loader], Loader]:
    """Marks a loader whose config's identity holds only where `claims(root)`; elsewhere it is that of the content."""

    def mark(loader: Loader) -> Loader:
        vars(loader)["claims"] = claims
        return loader

    return mark


def never_downloaded(find: Callable[[Path], Path]) -> Callable[[Loader], Loader]:
    """Marks a loader of data that kdrun cannot download: `find(root)` raises `DataError` where it is absent."""

    def mark(loader: Loader) -> Loader:
        vars(loader)["find"] = find
        return loader

    return mark


def check_present(loader: Callable[..., Splits], root: Path) -> None:
    """Raises `DataError` where data that kdrun cannot download is absent."""
    if find := getattr(loader, "find", None):
        find(root)


def streamable(loader: Loader) -> Loader:
    """Marks a loader whose splits are encoded, so that they can be streamed."""
    vars(loader)["streamable"] = True
    return loader


def is_streamable(loader: Callable[..., Splits]) -> bool:
    """Whether a loader is marked by `streamable`."""
    return getattr(loader, "streamable", False)


def claims_identity(loader: Callable[..., Splits], root: Path) -> bool:
    """Whether the identity in a loader's config is that of the data under a root."""
    claims: Callable[[Path], bool] = getattr(loader, "claims", lambda root: True)
    return claims(root)
