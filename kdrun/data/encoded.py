"""Images as they are stored, encoded: their form when decoded, and the store that has their bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from kdrun.files import read_regular

from .digests import digests_of
from .errors import ChangedError
from .pixels import file_limit, read_square, read_whole

_MODES = {1: "L", 3: "RGB"}


class ImageStore(Protocol):
    """Encoded images by position. It is read by several processes, so it is compact and holds no open file.

    Attributes:
        key: names the store among others on this machine.
        digests: uint8 `[N, 32]`, SHA-256 of each image's content when first listed, see `digests_of`; None before.
    """

    key: str
    digests: Tensor | None

    def __len__(self) -> int: ...

    def name(self, position: int) -> str:
        """The place of an image, for messages."""
        ...

    def read(self, position: int) -> bytes:
        """The content of an image file.

        Raises:
            OSError: it cannot be read.
        """
        ...

    def states(self) -> Tensor:
        """For each image numbers that change with its content, int64 `[N, 6]`; zeros where it cannot be read."""
        ...


@dataclass(frozen=True)
class Form:
    """What images are when they are decoded.

    Attributes:
        image_size: height and width in pixels.
        in_channels: 1 (grey) or 3 (RGB).
        resize_size: of the shorter side before the centre is cut out; at least `image_size`, None is `image_size`.

    Raises:
        ValueError: a value out of its range.
    """

    image_size: int
    in_channels: int
    resize_size: int | None = None

    def __post_init__(self) -> None:
        if self.in_channels not in _MODES:
            raise ValueError(f"dataset.in_channels={self.in_channels}: images can be read as 1 (grey) or 3 (RGB)")
        if self.image_size < 1:
            raise ValueError(f"dataset.image_size={self.image_size}: must be at least 1 pixel")
        if self.resize_size is not None and self.resize_size < self.image_size:
            raise ValueError(
                f"dataset.resize_size={self.resize_size}: must be null, or at least image_size={self.image_size}"
            )

    @property
    def mode(self) -> str:
        """Pillow's name of the channels."""
        return _MODES[self.in_channels]

    @property
    def nbytes(self) -> int:
        """Of a decoded image."""
        return self.image_size**2 * self.in_channels


@dataclass(frozen=True)
class EncodedSet:
    """Encoded images with their labels.

    Attributes:
        store: has their content.
        index: positions in the store, int64 `[N]`.
        labels: int64 `[N]`, class indices.
        form: when they are decoded.
    """

    store: ImageStore
    index: Tensor
    labels: Tensor
    form: Form

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> EncodedSet:
        """The images at the positions `index` (int64 `[M]`), in that order."""
        return EncodedSet(self.store, self.index[index], self.labels[index], self.form)

    def followed_by(self, other: EncodedSet) -> EncodedSet:
        """The images of both, which are of one store."""
        assert self.store is other.store, "see encoded_splits"
        index, labels = torch.cat([self.index, other.index]), torch.cat([self.labels, other.labels])
        return EncodedSet(self.store, index, labels, self.form)

    @property
    def classes(self) -> Tensor:
        """int64 `[N]`: of each image, for choices that are the same share of every class."""
        return self.labels

    @property
    def content(self) -> tuple[Tensor, Tensor]:
        return digests_of(self.store)[self.index], self.labels

    @property
    def image_size(self) -> int:
        return self.form.image_size

    def name(self, position: int) -> str:
        """The place of an image, for messages."""
        return self.store.name(int(self.index[position]))

    def read(self, position: int) -> bytes:
        """The content of an image file.

        Raises:
            OSError: it cannot be read.
            ChangedError: it could be read, or was another, when the store was listed.
        """
        place, digests = int(self.index[position]), self.store.digests
        if digests is None:
            return self.store.read(place)
        digest = digests[place].numpy().tobytes()
        try:
            content = self.store.read(place)
        except OSError as error:
            if any(digest):
                raise ChangedError(f"{self.name(position)}: was read before, and cannot be now: {error}") from error
            raise
        if hashlib.sha256(content).digest() != digest:
            raise ChangedError(f"{self.name(position)}: has changed since the command started")
        return content

    def pixels(self, position: int, *, whole: bool = False) -> Tensor:
        """An image decoded, uint8 `[size, size, C]`; whole, `[H, W, C]`, where asked for.

        Raises:
            Exception: it cannot be read; whatever Pillow raises on a damaged file.
        """
        if whole:
            return read_whole(self.read(position), self.form.mode)
        return self.square(self.read(position))[0]

    def square(self, content: bytes) -> tuple[Tensor, bool]:
        """An image of this content, uint8 `[size, size, C]`, and whether it has more frames; raises as `pixels`."""
        return read_square(content, self.form.image_size, self.form.mode, resize=self.form.resize_size)


class Files:
    """Image files below a directory.

    Their names are one `bytes`: of a list of a million strings, every process would soon have its own copy, since
    reading a string writes its reference count.
    """

    digests: Tensor | None = None

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.key = os.path.abspath(root)
        self._names = b"".join(encoded)
        self._ends = torch.tensor([0, *accumulate(map(len, encoded))])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def name(self, position: int) -> str:
        start, end = self._ends[position : position + 2].tolist()
        return f"{self.key}/{os.fsdecode(self._names[start:end])}"

    def read(self, position: int) -> bytes:
        return read_regular(self.name(position), file_limit())

    def states(self) -> Tensor:
        ends, directory = self._ends.tolist(), os.fsencode(self.key) + b"/"
        rows = [file_state(directory + self._names[start:end]) for start, end in pairwise(ends)]
        return torch.tensor(rows, dtype=torch.int64).view(-1, 6)


def file_state(path: bytes | str, position: int = 0) -> tuple[int, ...]:
    """Numbers that change with the content of a file, and a position in it; zeros where it is absent.

    The kernel sets the time of the last change (ctime), and no program can set it back.
    """
    try:
        status = os.stat(path)
    except OSError:
        return (0,) * 6
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, position)
