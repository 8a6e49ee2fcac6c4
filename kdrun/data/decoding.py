"""Image files decoded once into uint8 tensors and kept as one file beside the other data."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdrun.files import UnfitFileError, is_dry_run, open_regular, read_regular, set_default_mode, sha256, sha256_of
from kdrun.memory import free_bytes

from .downloads import data_home
from .errors import DataError
from .pixels import file_limit, pixel_limit, read_square
from .splits import NOT_DECODED, ImageSet, Splits, identity

_MODES = {1: "L", 3: "RGB"}
_LAW = 2
"""Raised whenever the same files give other pixels: part of the cache's key."""
_REPORTED_AT_MOST = 10
_DRY_RUN_SECONDS = 30.0
"""Time limit of a dry run for reading files to find the images in the cache."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """Image files with their labels, before they are read.

    Attributes:
        root: base of the paths.
        train: (relative path, label) of each training image, in a fixed order.
        test: likewise.
        class_names: by label.
    """

    root: Path
    train: Sequence[tuple[str, int]]
    test: Sequence[tuple[str, int]]
    class_names: tuple[str, ...]

    @property
    def paths(self) -> list[Path]:
        """Of all images, training images first."""
        return [self.root / name for name, _ in (*self.train, *self.test)]


def decode(listing: Listing, *, image_size: int, in_channels: int) -> Splits:
    """The images of a listing, from the cache if files of the same content were decoded before.

    Images are converted to grey (1 channel) or RGB (3), their shorter side is resized to `image_size` and the middle
    is cut out, see `kdrun.data.pixels`. The cache is `decoded/` under $KDRUN_DATA or ~/.cache/kdrun/data; its key
    covers the bytes of every file, its label and the order, and its content is verified when it is read.

    Raises:
        ValueError: `in_channels` is neither 1 nor 3, or `image_size` is not positive.
        DataError: some images cannot be read, or they take more memory than is free.
    """
    if in_channels not in _MODES:
        raise ValueError(f"dataset.in_channels={in_channels}: images can be read as 1 (grey) or 3 (RGB) channels")
    if image_size < 1:
        raise ValueError(f"dataset.image_size={image_size}: must be at least 1 pixel")
    paths = listing.paths
    _check_memory(len(paths), image_size, in_channels)
    directory = data_home() / "decoded"
    if _undecoded and not any(directory.glob("*.safetensors")):
        return _without_pixels(listing, image_size, in_channels)
    digests = file_digests(paths, seconds=_DRY_RUN_SECONDS if _undecoded else math.inf)
    if digests is None:
        return _without_pixels(listing, image_size, in_channels)
    cached = directory / f"{_key(listing, digests, image_size, in_channels)}.safetensors"
    if os.path.exists(cached) and (kept := _read_cache(cached, listing.class_names)):
        return kept
    if _undecoded:
        return _without_pixels(listing, image_size, in_channels)
    splits = _labelled(listing, _decode_all(listing, digests, image_size, in_channels))
    if not is_dry_run():
        _write_cache(splits, cached)
    return splits


@contextlib.contextmanager
def undecoded() -> Iterator[None]:
    """In this context images that are not in the cache are not decoded: their tensors have no data (`meta`)."""
    global _undecoded
    before, _undecoded = _undecoded, True
    try:
        yield
    finally:
        _undecoded = before


_undecoded = False


def _labelled(listing: Listing, pixels: Tensor) -> Splits:
    """The splits of a listing: `pixels` are uint8 `[N, H, W, C]`, training images first."""
    labels = torch.tensor([label for _, label in (*listing.train, *listing.test)])
    num_train = len(listing.train)
    return Splits(
        train=ImageSet(pixels[:num_train], labels[:num_train]),
        test=ImageSet(pixels[num_train:], labels[num_train:]),
        class_names=listing.class_names,
    )


def _without_pixels(listing: Listing, image_size: int, in_channels: int) -> Splits:
    """Splits without the images' data; their identity is that of the files' names, labels and sizes."""
    sizes = [path.stat().st_size if path.exists() else None for path in listing.paths]
    described = [image_size, in_channels, listing.train, listing.test, sizes]
    digest = sha256(json.dumps(described).encode())
    pixels = torch.empty(len(listing.paths), image_size, image_size, in_channels, dtype=torch.uint8, device="meta")
    splits = _labelled(listing, pixels)
    return dataclasses.replace(splits, undecoded=f"{NOT_DECODED}:{digest}")


def file_digests(paths: Sequence[Path], *, seconds: float = math.inf) -> list[str] | None:
    """The SHA-256 of each file's content; empty for a file that cannot be read.

    Every file is read, once in a process: size and times do not identify content.

    Args:
        paths: the files.
        seconds: time limit; None is returned where it takes longer.
    """
    from tqdm import tqdm

    started, digests = time.monotonic(), []
    blocks = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    pool = ThreadPoolExecutor()
    try:
        done = pool.map(lambda block: [*map(_digest, block)], blocks)
        for block in tqdm(done, "reading images", total=len(blocks), delay=2, leave=False, disable=None):
            digests += block
            if time.monotonic() - started > seconds:
                return None
        return digests
    finally:
        pool.shutdown(cancel_futures=True)


def _digest(path: Path) -> str:
    """SHA-256 of a file's content, read again only if the file has changed since this process read it."""
    try:
        status = path.stat()
        return _digest_at(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    except OSError:  # a broken link, a FIFO, or absent: `_decode_all` reports it among all that cannot be read
        return ""


@functools.cache
def _digest_at(path: Path, state: tuple[int, ...]) -> str:
    """As `_digest`; the kernel sets the time of the last change (ctime) in `state`, and no program can set it back."""
    return sha256_of(path, file_limit())


def _key(listing: Listing, digests: Sequence[str], image_size: int, in_channels: int) -> str:
    """Hashes what the decoded images depend on."""
    labels = [label for _, label in (*listing.train, *listing.test)]
    described = [_LAW, image_size, in_channels, len(listing.train), labels, digests]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def _check_memory(count: int, image_size: int, in_channels: int) -> None:
    needed, free = count * image_size**2 * in_channels, free_bytes()
    if needed > free:
        raise DataError(
            f"dataset.image_size={image_size}: {count} decoded images of {image_size} x {image_size} x {in_channels} "
            f"bytes need {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        )


def _decode_all(listing: Listing, digests: Sequence[str], image_size: int, in_channels: int) -> Tensor:
    """Decodes all files, training images first: uint8 `[N, image_size, image_size, in_channels]`."""
    from tqdm import tqdm

    paths = listing.paths
    pixels = torch.empty(len(paths), image_size, image_size, in_channels, dtype=torch.uint8)
    unreadable = []
    num_cut = 0
    if not sys.stderr.isatty():
        logger.info("decoding %d images of %s, once", len(paths), listing.root)
    read = functools.partial(_decode_one, size=image_size, mode=_MODES[in_channels])
    with pixel_limit(), ThreadPoolExecutor() as pool:
        decoded = pool.map(read, paths, digests)
        for position, result in enumerate(tqdm(decoded, "decoding images", total=len(paths), disable=None)):
            if isinstance(result, str):
                unreadable.append(f"{paths[position]}: {result}")
            else:
                pixels[position], has_more_frames = result
                num_cut += has_more_frames
    if unreadable:
        shown = "\n".join(f"  {line}" for line in unreadable[:_REPORTED_AT_MOST])
        more = f"\n  and {len(unreadable) - _REPORTED_AT_MOST} more" if len(unreadable) > _REPORTED_AT_MOST else ""
        raise DataError(f"{len(unreadable)} of {len(paths)} images cannot be read:\n{shown}{more}")
    if num_cut:
        logger.warning("%d of %d images have several frames or pages; the first is used", num_cut, len(paths))
    return pixels


def _decode_one(path: Path, digest: str, *, size: int, mode: str) -> tuple[Tensor, bool] | str:
    """One image as `read_square` returns it, or the reason why it cannot be read."""
    try:
        content = read_regular(path, file_limit())
        if sha256(content) != digest:
            return "changed while it was read"
        return read_square(content, size, mode)
    except UnfitFileError as error:
        return str(error.strerror)
    except Exception as error:  # a damaged file makes Pillow's plug-ins raise nearly anything; it is reported by file
        return str(error) or type(error).__name__


def _read_cache(path: Path, class_names: tuple[str, ...]) -> Splits | None:
    """The cached images, if they are intact; otherwise None, with a warning."""
    from safetensors import SafetensorError, safe_open

    try:
        with open_regular(path), safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            written = (opened.metadata() or {}).get("content")
        splits = Splits(
            train=ImageSet(tensors["train_images"], tensors["train_labels"]),
            test=ImageSet(tensors["test_images"], tensors["test_labels"]),
            class_names=class_names,
        )
        if written == _content(splits):
            return splits
        reason = "its content is not what was written"
    except (OSError, SafetensorError, KeyError) as error:
        reason = str(error)
    logger.warning("%s: these decoded images cannot be used (%s); decoding again", path, reason)
    return None


def _content(splits: Splits) -> str:
    """The identity of the tensors; the names of the classes are not kept with them."""
    return identity(Splits(splits.train, splits.test, ()))


def _write_cache(splits: Splits, path: Path) -> None:
    """Writes the file under another name and renames it, so that it is complete or absent; a failure is a warning."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    names = ("train_images", "train_labels", "test_images", "test_labels")
    tensors = dict(zip(names, (*splits.train.content, *splits.test.content), strict=True))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as directory:
            written = Path(directory) / path.name
            save_file(tensors, written, {"content": _content(splits)})
            set_default_mode(written)
            os.replace(written, path)
    except (OSError, SafetensorError) as error:
        logger.warning("the decoded images cannot be kept in %s and will be decoded again: %s", path.parent, error)
