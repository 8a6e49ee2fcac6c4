"""Encoded images decoded once into uint8 tensors and kept as one file beside the other data."""

from __future__ import annotations

import hashlib
import logging
import sys
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from kdrun.files import UnfitFileError, is_dry_run, sha256

from .digests import digests_of
from .downloads import data_home
from .encoded import EncodedSet
from .errors import DataError
from .pixels import pixel_limit
from .splits import ImageSet, Splits, identity
from .tensor_files import read_tensors, write_tensors

_LAW = 2
"""Raised whenever the same files give other pixels: part of the cache's key."""
_REPORTED_AT_MOST = 10

logger = logging.getLogger(__name__)


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
    key = sha256(f"{_LAW} {train.form} {identity(Splits(train, test, ()))}".encode())[:32]
    path = data_home() / "decoded" / f"{key}.safetensors"
    tensors = read_tensors(path)
    if tensors is None:
        pixels = decode_set(train.followed_by(test)).images
        tensors = {"train": pixels[: len(train)], "test": pixels[len(train) :]}
        if not is_dry_run():
            write_tensors(path, tensors)
    return Splits(ImageSet(tensors["train"], train.labels), ImageSet(tensors["test"], test.labels), splits.class_names)


def decode_set(images: EncodedSet) -> ImageSet:
    """One encoded set in memory; raises as `decode`."""
    from tqdm import tqdm

    size, channels, number = images.form.image_size, images.form.in_channels, len(images)
    pixels = torch.empty(number, size, size, channels, dtype=torch.uint8)
    digests = digests_of(images.store)[images.index].numpy()
    unreadable = []
    num_cut = 0
    if not sys.stderr.isatty():
        logger.info("decoding %d images of %s, once", number, images.store.key)
    with pixel_limit(), ThreadPoolExecutor() as pool:
        decoded = pool.map(lambda position: _decode_one(images, position, digests[position].tobytes()), range(number))
        for position, result in enumerate(tqdm(decoded, "decoding images", total=number, disable=None)):
            if isinstance(result, str):
                unreadable.append(f"{images.name(position)}: {result}")
            else:
                pixels[position], has_more_frames = result
                num_cut += has_more_frames
    if unreadable:
        shown = "\n".join(f"  {line}" for line in unreadable[:_REPORTED_AT_MOST])
        more = f"\n  and {len(unreadable) - _REPORTED_AT_MOST} more" if len(unreadable) > _REPORTED_AT_MOST else ""
        raise DataError(f"{len(unreadable)} of {number} images cannot be read:\n{shown}{more}")
    if num_cut:
        logger.warning("%d of %d images have several frames or pages; the first is used", num_cut, number)
    return ImageSet(pixels, images.labels)


def _decode_one(images: EncodedSet, position: int, digest: bytes) -> tuple[Tensor, bool] | str:
    """One image and whether it has more frames, or the reason why it cannot be read."""
    try:
        content = images.read(position)
        if hashlib.sha256(content).digest() != digest:
            return "changed while it was read"
        return images.square(content)
    except Exception as error:  # a damaged file makes Pillow's plug-ins raise nearly anything; it is reported by file
        return reason(error)


def reason(error: Exception) -> str:
    """Why an image cannot be read."""
    return (isinstance(error, UnfitFileError) and error.strerror) or str(error) or type(error).__name__
