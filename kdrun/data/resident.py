"""A split in the device's memory (images as uint8)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from kdrun.spec.augmentation import Augmentation

from .augmentation import augment
from .normalisation import Normalisation
from .splits import ImageSet, SequenceSet

BATCHES_AT_ONCE = 32
"""Batches whose views are made by one set of operations, at most: on a GPU each operation costs a launch."""

POSITIONS_AT_ONCE = 2**22
"""Pixels (or tokens) of the views made at once, unless one batch has more. `augment` takes about 30 bytes for each, so
at most 130 MB."""

POSITIONS_AT_ONCE_CPU = 2**18
"""The same on a CPU, where the intermediate results should stay in the cache."""


class _Resident(ABC):
    """What images and sequences have in common: a batch is one gather, without a copy from the host.

    Attributes:
        labels: int64 on the device, one for each row of logits.
    """

    labels: Tensor

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def positions(self) -> int:
        """Pixels of an image, tokens of a sequence."""

    @abstractmethod
    def gather(self, index: Tensor, augmentation: Augmentation, *, seed: int, epoch: int, number: int = 0) -> Tensor:
        """Random views of the examples at positions `index` (int64 `[N]`, on the device), `[N, ...]`."""

    @abstractmethod
    def inputs(self, gathered: Tensor) -> Tensor:
        """What a network gets of `gather`'s result, or of a part of it."""

    @abstractmethod
    def labels_of(self, index: Tensor) -> Tensor:
        """The labels of the examples at these positions."""

    def batch(self, index: Tensor) -> Tensor:
        """What a network gets of the examples at positions `index` (int64 `[N]`, on the device) as they are."""
        return self.inputs(self.gather(index, Augmentation(), seed=0, epoch=0))

    def batches(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """`batch` of each of these groups of positions."""
        return map(self.batch, parts)

    def views(
        self, parts: Sequence[Tensor], augmentation: Augmentation, *, seed: int, epoch: int, count: int = 1
    ) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
        """Random views of each group of positions, those of up to `BATCHES_AT_ONCE` groups made at once.

        Args:
            parts: the groups, int64 `[N]` each, on any device.
            augmentation: the law of the views.
            seed: of the views.
            epoch: from 0.
            count: views of each example.

        Yields:
            `count` results of `gather`, the labels, and the positions `[N]` on the device.
        """
        device = self.labels.device
        limit = POSITIONS_AT_ONCE_CPU if device.type == "cpu" else POSITIONS_AT_ONCE
        largest = self.positions * max(map(len, parts), default=1)
        at_once = max(1, min(BATCHES_AT_ONCE, limit // max(1, largest)))
        order = torch.cat(list(parts)).to(device)
        first = 0
        for start in range(0, len(parts), at_once):
            sizes = [len(part) for part in parts[start : start + at_once]]
            positions = order[first : first + sum(sizes)]
            first += len(positions)
            gathered = [
                self.gather(positions, augmentation, seed=seed, epoch=epoch, number=number).split(sizes)
                for number in range(count)
            ]
            labels = self.labels_of(positions)
            rows = len(labels) // len(positions)  # of an example
            labels_of = labels.split([rows * size for size in sizes])
            for *views, y, index in zip(*gathered, labels_of, positions.split(sizes), strict=True):
                yield views, y, index


class ResidentImages(_Resident):
    """Images and labels of one split on a device; a batch is one gather, without a copy from the host.

    Attributes:
        images: uint8 `[M, H, W, C]` on the device.
        labels: int64 `[M]` on the device.

    Args:
        image_set: the split.
        mean: per channel, of pixels scaled to [0, 1].
        std: likewise; positive.
        device: of the images and the batches.
    """

    def __init__(
        self, image_set: ImageSet, *, mean: Sequence[float], std: Sequence[float], device: torch.device | str
    ) -> None:
        _, height, width, channels = image_set.images.shape
        assert len(mean) == len(std) == channels, "checked by the dataset"
        self.images = image_set.images.contiguous().to(device)
        self.labels = image_set.labels.to(device)
        self._normalise = Normalisation(mean, std, (height, width), device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def positions(self) -> int:
        return self.images.shape[1] * self.images.shape[2]

    def gather(self, index: Tensor, augmentation: Augmentation, *, seed: int, epoch: int, number: int = 0) -> Tensor:
        """uint8 `[N, H, W, C]`; see `augment`.

        Raises:
            ValueError: the augmentation is one of single images, which `StreamedImages` makes.
        """
        if augmentation.per_image:
            raise ValueError("resized crops, colour jitter and RandAugment are made by StreamedImages alone")
        return augment(self.images, index, augmentation, seed=seed, epoch=epoch, number=number)

    def inputs(self, gathered: Tensor) -> Tensor:
        """float32 `[N, C, H, W]` in channels_last memory, normalised."""
        return self._normalise(gathered)

    def labels_of(self, index: Tensor) -> Tensor:
        return self.labels[index]


class ResidentSequences(_Resident):
    """Sequences and labels of one split on a device.

    Attributes:
        tokens: int64 `[M, L]` on the device.
        labels: int64 on the device: `[M]`, or `[M * L]` where every token has one; in the order of the logits' rows.

    Args:
        sequences: the split.
        device: of the tensors.
    """

    def __init__(self, sequences: SequenceSet, *, device: torch.device | str) -> None:
        self.tokens = sequences.tokens.contiguous().to(device)
        self._labels = sequences.labels.contiguous().to(device)
        self.labels = self._labels.flatten()

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def positions(self) -> int:
        return self.tokens.shape[1]

    def gather(self, index: Tensor, augmentation: Augmentation, *, seed: int, epoch: int, number: int = 0) -> Tensor:
        """int64 `[N, L]`: nothing is done to sequences."""
        assert not augmentation.changes, "refused in preflight"
        return self.tokens[index]

    def inputs(self, gathered: Tensor) -> Tensor:
        return gathered

    def labels_of(self, index: Tensor) -> Tensor:
        return self._labels[index].flatten()


Resident = ResidentImages | ResidentSequences
