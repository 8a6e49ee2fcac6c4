"""A split in the device's memory (images as uint8), and the order of its examples in an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from kdrun.seeds import mix
from kdrun.spec.augmentation import Augmentation

from .augmentation import augment
from .image_views import view
from .splits import ImageSet, SequenceSet, sorted_by_class


class ResidentImages:
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
        # (x / 255 - mean) / std as x * scale + shift. Spread over [H, W, C], because broadcasting along an inner
        # dimension of three elements would be the slowest part of a batch on the CPU.
        scale = torch.tensor([1 / (255 * deviation) for deviation in std])
        shift = torch.tensor([-centre / deviation for centre, deviation in zip(mean, std, strict=True)])
        self._scale = scale.expand(height, width, channels).contiguous().to(device)
        self._shift = shift.expand(height, width, channels).contiguous().to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor) -> Tensor:
        """The images at positions `index` (int64 `[N]`, on the device) as they are.

        Returns:
            float32 `[N, C, H, W]` in channels_last memory, normalised.
        """
        return self.inputs(self.gather(index, Augmentation(), seed=0, epoch=0))

    def batches(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """`batch` of each of these groups of positions."""
        return map(self.batch, parts)

    @property
    def positions(self) -> int:
        """Pixels of an image."""
        return self.images.shape[1] * self.images.shape[2]

    def gather(self, index: Tensor, augmentation: Augmentation, *, seed: int, epoch: int, number: int = 0) -> Tensor:
        """Random views of the images at positions `index`, uint8 `[N, H, W, C]`; see `augment` and `view`."""
        if augmentation.per_image:
            made = [
                view(image, augmentation, i, seed=seed, epoch=epoch, size=image.shape[0], number=number)
                for image, i in zip(self.images[index].cpu(), index.tolist(), strict=True)
            ]
            return torch.stack(made).to(self.images.device)
        return augment(self.images, index, augmentation, seed=seed, epoch=epoch, number=number)

    def inputs(self, gathered: Tensor) -> Tensor:
        """What a network gets of `gather`'s result, or of a part of it: float32 `[N, C, H, W]`, as `batch` returns."""
        return torch.addcmul(self._shift, gathered.float(), self._scale).permute(0, 3, 1, 2)

    def labels_of(self, index: Tensor) -> Tensor:
        """The labels `[N]` of the images at these positions."""
        return self.labels[index]


class ResidentSequences:
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

    def batch(self, index: Tensor) -> Tensor:
        """The sequences `[N, L]`, int64, at positions `index` (int64 `[N]`, on the device)."""
        return self.tokens[index]

    def batches(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """`batch` of each of these groups of positions."""
        return map(self.batch, parts)

    @property
    def positions(self) -> int:
        """Tokens of a sequence."""
        return self.tokens.shape[1]

    def gather(self, index: Tensor, augmentation: Augmentation, *, seed: int, epoch: int, number: int = 0) -> Tensor:
        """The same as `batch`: nothing is done to sequences."""
        assert not augmentation.changes, "refused in preflight"
        return self.batch(index)

    def inputs(self, gathered: Tensor) -> Tensor:
        """What a network gets: the sequences."""
        return gathered

    def labels_of(self, index: Tensor) -> Tensor:
        """The labels of the sequences at these positions, `[N]`, or `[N * L]`."""
        return self._labels[index].flatten()


Resident = ResidentImages | ResidentSequences


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> Tensor:
    """The order of the training set in an epoch: a permutation of `range(num_samples)`, int64 on the CPU."""
    return _permutation(num_samples, mix("order", seed, epoch))


def grouped_order(labels: Tensor, per_class: int, *, seed: int, epoch: int) -> Tensor:
    """The order of an epoch in which images of one class follow each other in groups of `per_class`.

    Which images are in a group, and the order of the groups, are drawn anew for each epoch. What a class has beyond
    whole groups comes last.

    Args:
        labels: int64 `[M]`, on the CPU.
        per_class: images in a group, at least 2.
        seed: of the order.
        epoch: from 0.

    Returns:
        A permutation of `range(M)`, int64 `[M]`.
    """
    shuffled = _permutation(len(labels), mix("order", seed, epoch, per_class))
    by_class, ranks = sorted_by_class(labels, shuffled)
    counts = labels.bincount()
    whole = ranks < (counts - counts % per_class)[labels[by_class]]
    groups = by_class[whole].view(-1, per_class)
    groups = groups[_permutation(len(groups), mix("groups", seed, epoch, per_class))]
    rest = by_class[~whole]
    return torch.cat([groups.flatten(), rest[_permutation(len(rest), mix("rest", seed, epoch, per_class))]])


def _permutation(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def batches(order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Cuts an order into batches of `batch_size`, the last one possibly smaller.

    A last batch of a single image is dropped: BatchNorm cannot train on one value per channel.
    """
    cut = torch.split(order, batch_size)
    leftover = len(cut) > 1 and batch_size > 1 and len(cut[-1]) == 1
    return cut[:-1] if leftover else cut
