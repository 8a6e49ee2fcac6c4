"""Encoded images as splits; decoded once into uint8 tensors, they are kept as one file beside the other data."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from kdrun.files import UnfitFileError, is_dry_run, sha256

from .downloads import data_home
from .encoded import EncodedSet, Form, ImageStore
from .errors import ChangedError, DataError
from .image_files import warn_once
from .pixels import file_limit, pixel_limit
from .splits import ImageSet, Splits
from .tensor_files import read_tensors, write_tensors

_LAW = 2
"""Raised whenever the same files give other pixels: part of the cache's key."""
_REPORTED_AT_MOST = 10

logger = logging.getLogger(__name__)


def encoded_splits(
    store: ImageStore,
    labels: Sequence[int],
    num_train: int,
    class_names: tuple[str, ...],
    form: Form,
    *,
    skip_corrupt: bool = False,
) -> Splits:
    """The splits of a store, which has the training images first.

    Args:
        store: has the images.
        labels: of all of them, class indices.
        num_train: training images.
        class_names: by label.
        form: of the images when they are decoded.
        skip_corrupt: whether images that cannot be read are left out. All are decoded for that, once.

    Raises:
        ValueError: the user's limit of pixels is no number (`kdrun.data.pixels`).
    """
    file_limit()
    images = EncodedSet(store, torch.arange(len(store)), torch.tensor(labels), form)
    is_train = torch.arange(len(store)) < num_train
    kept = _readable(images) if skip_corrupt else torch.ones(len(store), dtype=torch.bool)
    train, test = (images.subset((kept & split).nonzero().flatten()) for split in (is_train, ~is_train))
    left_out = (int((~kept & is_train).sum()), int((~kept & ~is_train).sum())) if skip_corrupt else None
    return Splits(train, test, class_names, left_out)


def _readable(images: EncodedSet) -> Tensor:
    """Which images can be decoded, bool `[N]`; known from an earlier command with the same content and limit."""
    path = _cached(f"readable {file_limit()}", images)
    known = read_tensors(path)
    if known is None:
        results = _decoded(images, "checking images")
        reasons = {position: result for position, result in enumerate(results) if isinstance(result, str)}
        known = {"readable": torch.tensor([position not in reasons for position in range(len(images))])}
        if not is_dry_run():
            write_tensors(path, known)
    readable = known["readable"]
    if not readable.all():
        names = [images.name(position) for position in (~readable).nonzero().flatten().tolist()]
        warn_once(f"{len(names)} of {len(images)} images cannot be read and are left out:\n{_listed(names)}")
    return readable


def decode(splits: Splits) -> Splits:
    """Encoded splits in memory, from the cache if images of the same content were decoded before; others as they are.

    The cache is `decoded/` under $KDRUN_DATA or ~/.cache/kdrun/data; its key covers the bytes of every image, its label
    and the order, and its content is verified when it is read.

    Raises:
        DataError: some images cannot be read.
    """
    train, test = splits.train, splits.test
    if not (isinstance(train, EncodedSet) and isinstance(test, EncodedSet)):
        return splits
    images = train.followed_by(test)
    path = _cached(f"{_LAW} {len(train)} {images.form}", images)
    tensors = read_tensors(path)
    if tensors is None:
        tensors = {"images": decode_set(images).images}
        if not is_dry_run():
            write_tensors(path, tensors)
    pixels = tensors["images"].split([len(train), len(test)])
    parts = [ImageSet(own, part.labels) for own, part in zip(pixels, (train, test), strict=True)]
    return dataclasses.replace(splits, train=parts[0], test=parts[1])


def _cached(what: str, images: EncodedSet) -> Path:
    """The file of what follows from images' content; zeros for an image that cannot be read."""
    return data_home() / "decoded" / f"{sha256(what.encode() + images.content[0].numpy().tobytes())[:32]}.safetensors"


def decode_set(images: EncodedSet) -> ImageSet:
    """One encoded set in memory; raises as `decode`."""
    form, number = images.form, len(images)
    pixels = torch.empty(number, form.image_size, form.image_size, form.in_channels, dtype=torch.uint8)
    unreadable = []
    num_cut = 0
    if not sys.stderr.isatty():
        logger.info("decoding %d images of %s, once", number, images.store.key)
    for position, result in enumerate(_decoded(images, "decoding images")):
        if isinstance(result, str):
            unreadable.append(f"{images.name(position)}: {result}")
        else:
            pixels[position], has_more_frames = result
            num_cut += has_more_frames
    if unreadable:
        raise DataError(
            f"{len(unreadable)} of {number} images cannot be read (dataset.skip_corrupt=true leaves them out):\n"
            f"{_listed(unreadable)}"
        )
    if num_cut:
        logger.warning("%d of %d images have several frames or pages; the first is used", num_cut, number)
    return ImageSet(pixels, images.labels)


def _listed(lines: Sequence[str]) -> str:
    """The first lines, and how many more there are."""
    more = [f"and {len(lines) - _REPORTED_AT_MOST} more"] if len(lines) > _REPORTED_AT_MOST else []
    return "\n".join(f"  {line}" for line in (*lines[:_REPORTED_AT_MOST], *more))


def _decoded(images: EncodedSet, what: str) -> Iterator[tuple[Tensor, bool] | str]:
    """`_decode_one` of each image, in threads, with a progress bar; raises `ChangedError`."""
    from tqdm import tqdm

    number = len(images)
    with pixel_limit(), ThreadPoolExecutor() as pool:
        found = pool.map(lambda position: _decode_one(images, position), range(number))
        yield from tqdm(found, what, total=number, disable=None)


def _decode_one(images: EncodedSet, position: int) -> tuple[Tensor, bool] | str:
    """One image and whether it has more frames, or the reason why it cannot be read."""
    try:
        return images.square(images.read(position))
    except ChangedError:
        raise
    except Exception as error:  # a damaged file makes Pillow's plug-ins raise nearly anything; it is reported by file
        return reason(error)


def reason(error: Exception) -> str:
    """Why an image cannot be read."""
    return (isinstance(error, UnfitFileError) and error.strerror) or str(error) or type(error).__name__
