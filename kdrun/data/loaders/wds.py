"""Shards in the form of WebDataset: plain tar files in which the files of an example follow each other.

An image is read at its place in a shard, so that shuffling is of single images, as for any other dataset.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kdrun.files import is_dry_run, open_regular, sha256
from kdrun.spec.dataset import MOST_CLASSES

from ..decoding import encoded_splits
from ..downloads import data_home, reading
from ..encoded import Form, file_state
from ..errors import DataError
from ..pixels import extensions, file_limit
from ..splits import Splits, streamable
from ..tensor_files import read_tensors, write_tensors

CLASS_NAMES = "classes.txt"
_LABEL_LIMIT = 20
"""Bytes of a `.cls` file, at most."""


@streamable
def wds(
    root: Path,
    image_size: int,
    in_channels: int,
    train_shards: str,
    test_shards: str,
    resize_size: int | None = None,
    skip_corrupt: bool = False,
) -> Splits:
    """Images `KEY.jpg` (or another format) with their labels `KEY.cls`, integers from 0, in `root/*.tar`.

    The names of the classes are the lines of `root/classes.txt`; without that file they are numbers.

    Args:
        root: of the shards.
        image_size: height and width in pixels.
        in_channels: 1 (grey) or 3 (RGB).
        train_shards: the shards of the training images, as `train-{000..099}.tar`.
        test_shards: those of the test images.
        resize_size: of the shorter side before the centre is cut out; None is `image_size`.
        skip_corrupt: whether images that cannot be read are left out.

    Raises:
        ValueError: a size out of its range.
        DataError: shards are missing or damaged, examples have no image or label, or a package is not installed.
    """
    form = Form(image_size, in_channels, resize_size)
    shards = [[root / name for name in _expanded(pattern)] for pattern in (train_shards, test_shards)]
    members = [_members(paths) for paths in shards]
    labels = torch.cat([part[:, 3] for part in members])
    store = _Members(root, [*shards[0], *shards[1]], members, len(shards[0]))
    return encoded_splits(
        store, labels.tolist(), len(members[0]), _class_names(root, labels), form, skip_corrupt=skip_corrupt
    )


def _expanded(pattern: str) -> list[str]:
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise DataError(f"dataset=wds: needs the package braceexpand: pip install 'kdrun[wds]' ({error})") from error
    if "*" in pattern or "?" in pattern:
        raise DataError(f"dataset=wds: {pattern}: wildcards are not expanded; must be like train-{{000..009}}.tar")
    return list(braceexpand(pattern))


def _class_names(root: Path, labels: Tensor) -> tuple[str, ...]:
    path, count = root / CLASS_NAMES, int(labels.max()) + 1
    if not path.exists():
        return tuple(map(str, range(count)))
    with reading(path):
        names = tuple(path.read_text().splitlines())
    if len(names) < count:
        raise DataError(f"{path}: has {len(names)} names, and labels run up to {count - 1}")
    return names


def _members(paths: Sequence[Path]) -> Tensor:
    """The images of shards, int64 `[N, 4]`: number of the shard, first byte, bytes, label; from an earlier command."""
    states = [file_state(str(path)) for path in paths]
    path = data_home() / "listings" / f"{sha256(repr(['wds', states]).encode())[:32]}.safetensors"
    known = read_tensors(path)
    if known is None:
        from tqdm import tqdm

        shown = tqdm(paths, "indexing shards", unit=" shards", delay=2, leave=False, disable=None)
        rows = [(number, *row) for number, shard in enumerate(shown) for row in _indexed(shard)]
        known = {"members": torch.tensor(rows, dtype=torch.int64).view(-1, 4)}
        if not is_dry_run():
            write_tensors(path, known)
    if not len(known["members"]):
        raise DataError(f"{paths[0]}: has no images")
    return known["members"]


def _indexed(shard: Path) -> Iterator[tuple[int, int, int]]:
    """First byte, bytes and label of each image of a shard."""
    key, image, label = "", None, None
    with reading(shard):
        try:
            with open_regular(shard) as file, tarfile.open(fileobj=file, mode="r:") as opened:
                for member in opened:
                    directory, _, name = member.name.rpartition("/")
                    stem, _, extension = name.partition(".")
                    if not member.isfile() or not stem or not extension:
                        continue
                    if f"{directory}/{stem}" != key:
                        if key:
                            yield _example(shard, key, image, label)
                        key, image, label = f"{directory}/{stem}", None, None
                    if f".{extension.lower()}" in extensions():
                        if image is not None:
                            raise DataError(f"{shard}: {key.lstrip('/')} has several images")
                        image = (member.offset_data, member.size)
                    elif extension == "cls":
                        label = opened.extractfile(member).read(_LABEL_LIMIT + 1)  # type: ignore[union-attr]
        except tarfile.TarError as error:
            raise DataError(f"{shard}: is no tar file, or a compressed or damaged one ({error})") from error
    if key:
        yield _example(shard, key, image, label)


def _example(shard: Path, key: str, image: tuple[int, int] | None, label: bytes | None) -> tuple[int, int, int]:
    is_number = label is not None and len(label) <= _LABEL_LIMIT and label.strip().isdigit()
    if image is None or label is None or not is_number or int(label) >= MOST_CLASSES:
        raise DataError(
            f"{shard}: {key.lstrip('/')} needs an image and, in .cls, a label that is a number from 0 to "
            f"{MOST_CLASSES - 1}"
        )
    return (*image, int(label))


class _Members:
    """Files in uncompressed tar files."""

    digests: Tensor | None = None

    def __init__(self, root: Path, shards: Sequence[Path], members: Sequence[Tensor], num_train: int) -> None:
        self.key = os.path.abspath(root)
        self._shards = [os.path.abspath(shard) for shard in shards]
        train, test = members
        offset = torch.tensor([num_train, 0, 0, 0])
        self._members = torch.cat([train, test + offset])

    def __len__(self) -> int:
        return len(self._members)

    def name(self, position: int) -> str:
        shard, first, *_ = self._members[position].tolist()
        return f"{self._shards[shard]}: file at byte {first}"

    def read(self, position: int) -> bytes:
        shard, first, size, _ = self._members[position].tolist()
        if size > file_limit():
            raise OSError(f"has {size} bytes; at most {file_limit()} are read")
        with open_regular(self._shards[shard]) as file:
            content = os.pread(file.fileno(), size, first)
        if len(content) < size:
            raise OSError("the shard is cut short")
        return content

    def states(self) -> Tensor:
        shards = torch.tensor([file_state(shard) for shard in self._shards], dtype=torch.int64)
        rows = shards[self._members[:, 0]].clone()
        rows[:, 5] = self._members[:, 1]
        return rows
