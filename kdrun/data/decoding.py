"""Image files decoded once into uint8 tensors and kept as one file beside the other data."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import DataError
from .files import data_home
from .splits import ImageSet, Splits

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_MODES = {1: "L", 3: "RGB"}
_REPORTED_AT_MOST = 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """Image files with their labels, before they are read.

    Attributes:
        root: what the paths are relative to.
        train: (relative path, label) of each training image, in a fixed order.
        test: likewise.
        class_names: by label.
    """

    root: Path
    train: Sequence[tuple[str, int]]
    test: Sequence[tuple[str, int]]
    class_names: tuple[str, ...]


def decode(listing: Listing, *, image_size: int, in_channels: int) -> Splits:
    """The images of a listing, from the cache if these very files were decoded before.

    Images are converted to grey (1 channel) or RGB (3), their shorter side is resized to `image_size` (bilinear, as
    PIL does it) and the middle is cut out. The cache is `decoded/` under $KDRUN_DATA or ~/.cache/kdrun/data; its key
    covers path, size and modification time of every file.

    Raises:
        ValueError: `in_channels` is neither 1 nor 3, or `image_size` is not positive.
        DataError: some images cannot be read, or the cached file is damaged.
    """
    if in_channels not in _MODES:
        raise ValueError(f"dataset.in_channels={in_channels}: images can be read as 1 (grey) or 3 (RGB) channels")
    if image_size < 1:
        raise ValueError(f"dataset.image_size={image_size}: must be at least 1 pixel")
    cached = data_home() / "decoded" / f"{_key(listing, image_size, in_channels)}.safetensors"
    if cached.exists():
        return _read_cache(cached, listing.class_names)
    pixels = _decode_all(listing, image_size, in_channels)
    labels = torch.tensor([label for _, label in (*listing.train, *listing.test)])
    num_train = len(listing.train)
    splits = Splits(
        train=ImageSet(pixels[:num_train], labels[:num_train]),
        test=ImageSet(pixels[num_train:], labels[num_train:]),
        class_names=listing.class_names,
    )
    _write_cache(splits, cached)
    return splits


def _key(listing: Listing, image_size: int, in_channels: int) -> str:
    """Hashes what the decoded images depend on."""
    described: list[object] = [image_size, in_channels]
    for split in (listing.train, listing.test):
        for name, label in split:
            try:
                status = (listing.root / name).stat()
                described.append((name, label, status.st_size, status.st_mtime_ns))
            except OSError:  # a broken link, or not there: `_decode_all` tells it among all that cannot be read
                described.append((name, label))
        described.append("end of split")
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def _decode_all(listing: Listing, image_size: int, in_channels: int) -> Tensor:
    """Decodes all files, training images first: uint8 `[N, image_size, image_size, in_channels]`."""
    from tqdm import tqdm

    paths = [listing.root / name for name, _ in (*listing.train, *listing.test)]
    pixels = torch.empty(len(paths), image_size, image_size, in_channels, dtype=torch.uint8)
    unreadable = []
    if not sys.stderr.isatty():
        logger.info("decoding %d images of %s, once", len(paths), listing.root)
    with ThreadPoolExecutor() as pool:
        decoded = pool.map(lambda path: _decode_one(path, image_size, _MODES[in_channels]), paths)
        for position, result in enumerate(tqdm(decoded, "decoding images", total=len(paths), disable=None)):
            if isinstance(result, str):
                unreadable.append(f"{paths[position]}: {result}")
            else:
                pixels[position] = result
    if unreadable:
        shown = "\n".join(f"  {line}" for line in unreadable[:_REPORTED_AT_MOST])
        more = f"\n  and {len(unreadable) - _REPORTED_AT_MOST} more" if len(unreadable) > _REPORTED_AT_MOST else ""
        raise DataError(f"{len(unreadable)} of {len(paths)} images cannot be read:\n{shown}{more}")
    return pixels


def _decode_one(path: Path, image_size: int, mode: str) -> Tensor | str:
    """One image as uint8 `[image_size, image_size, C]`, or why it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert(mode)
    # What PIL raises for damaged, truncated, foreign and absurdly large files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error)
    width, height = image.size
    shorter = min(width, height)
    if shorter != image_size:
        scaled = (width * image_size // shorter, height * image_size // shorter)
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((image.width - image_size) / 2), round((image.height - image_size) / 2)
    image = image.crop((left, top, left + image_size, top + image_size))
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image_size, image_size, len(mode))


def _read_cache(path: Path, class_names: tuple[str, ...]) -> Splits:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: these decoded images cannot be read ({error}); remove the file") from error
    return Splits(
        train=ImageSet(tensors["train_images"], tensors["train_labels"]),
        test=ImageSet(tensors["test_images"], tensors["test_labels"]),
        class_names=class_names,
    )


def _write_cache(splits: Splits, path: Path) -> None:
    """Writes the file under another name and renames it, so that it is whole or absent; warns if it cannot."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    names = ("train_images", "train_labels", "test_images", "test_labels")
    tensors = dict(zip(names, (*splits.train.content, *splits.test.content), strict=True))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as directory:
            save_file(tensors, Path(directory) / path.name)
            os.replace(Path(directory) / path.name, path)
    except (OSError, SafetensorError) as error:
        logger.warning("the decoded images cannot be kept in %s and will be decoded again: %s", path.parent, error)
