"""Encoded images decoded once into uint8 tensors and kept as one file beside the other data."""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from kdrun.files import UnfitFileError, is_dry_run, sha256

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
        pixels = _decode_all([(part, position) for part in (train, test) for position in range(len(part))])
        tensors = {"train": pixels[: len(train)], "test": pixels[len(train) :]}
        if not is_dry_run():
            write_tensors(path, tensors)
    return Splits(ImageSet(tensors["train"], train.labels), ImageSet(tensors["test"], test.labels), splits.class_names)


def _decode_all(images: list[tuple[EncodedSet, int]]) -> Tensor:
    """Images of some sets, each a set and a position: uint8 `[N, image_size, image_size, C]`."""
    from tqdm import tqdm

    form, store = images[0][0].form, images[0][0].store
    pixels = torch.empty(len(images), form.image_size, form.image_size, form.in_channels, dtype=torch.uint8)
    digests = torch.cat([part.content[0] for part in dict.fromkeys(part for part, _ in images)])
    unreadable = []
    num_cut = 0
    if not sys.stderr.isatty():
        logger.info("decoding %d images of %s, once", len(images), store.key)
    with pixel_limit(), ThreadPoolExecutor() as pool:
        decoded = pool.map(_decode_one, images, map(bytes, digests.numpy()))
        for number, result in enumerate(tqdm(decoded, "decoding images", total=len(images), disable=None)):
            if isinstance(result, str):
                part, position = images[number]
                unreadable.append(f"{part.name(position)}: {result}")
            else:
                pixels[number], has_more_frames = result
                num_cut += has_more_frames
    if unreadable:
        shown = "\n".join(f"  {line}" for line in unreadable[:_REPORTED_AT_MOST])
        more = f"\n  and {len(unreadable) - _REPORTED_AT_MOST} more" if len(unreadable) > _REPORTED_AT_MOST else ""
        raise DataError(f"{len(unreadable)} of {len(images)} images cannot be read:\n{shown}{more}")
    if num_cut:
        logger.warning("%d of %d images have several frames or pages; the first is used", num_cut, len(images))
    return pixels
