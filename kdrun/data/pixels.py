"""One image file as 8-bit pixels: the square in its middle, or whole.

Depth, transparency and orientation of the file are applied; what has no 8-bit form is refused. Colour
profiles and gamma are not applied, as in torchvision. Of animations and multi-page files the first frame is read.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import struct
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage
    from PIL.ImageFile import ImageFile

PIXEL_LIMIT_VARIABLE = "KDRUN_MAX_PIXELS"
"""In the environment, as `KDRUN_TRUST` is: a config from a stranger cannot lift the limit for the stranger's files."""

_DEFAULT_PIXEL_LIMIT = 178_956_970  # Pillow's: a quarter of a GiB in RGB at a warning, twice that at an error
_NOT_READ = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow recognises, but decodes only through another program or library, or not at all."""
_SIXTEEN_BITS = ("PNG", "TIFF", "PPM", "JPEG2000")
"""Formats whose samples of more than 8 bits Pillow delivers unsigned and at a known scale."""
_KEYS_UNSCALED = ("L;2", "L;4", "RGB;16B")
"""Raw modes of PNG for which Pillow compares the transparent colour at another scale than the pixels."""
_FRAME_HEADERS = frozenset({0xC0, 0xC1, 0xC2})
"""Markers of JPEG frames in Huffman code: baseline, extended, progressive."""
_START_OF_SCAN = 0xDA
_LONGEST = 8
_MOST_BYTES_OF_A_PIXEL = 8


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats that are read, by Pillow's names: all that it decodes by itself."""
    from PIL import Image

    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_READ)


@functools.cache
def extensions() -> frozenset[str]:
    """The extensions of these formats, in lower case with their dot."""
    from PIL import Image

    readable = {*formats(), "MPO"}  # a JPEG with further pictures behind the first
    return frozenset(extension for extension, name in Image.registered_extensions().items() if name in readable)


@contextlib.contextmanager
def pixel_limit() -> Iterator[None]:
    """Sets Pillow's limit on the pixels of a file to the user's; for as long as the context lasts, in all threads.

    Raises:
        ValueError: the variable is no positive integer.
    """
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, -(-_pixel_limit() // 2)  # half: Pillow warns there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _pixel_limit() -> int:
    named = os.environ.get(PIXEL_LIMIT_VARIABLE)
    if not named:
        return _DEFAULT_PIXEL_LIMIT
    if not (named.isascii() and named.isdecimal() and int(named)):
        raise ValueError(f"{PIXEL_LIMIT_VARIABLE}={named}: must be a positive integer, the pixels of the largest image")
    return int(named)


def file_limit() -> int:
    """Bytes of an image file, at most: those of the largest image in 16-bit RGBA, and as much again.

    Raises:
        ValueError: the variable is no positive integer.
    """
    return 2 * _MOST_BYTES_OF_A_PIXEL * _pixel_limit()


def read_square(content: bytes, size: int, mode: str, *, resize: int | None = None) -> tuple[Tensor, bool]:
    """The middle of an image, its shorter side resized to `resize` (bilinear, as torchvision does it).

    Samples of 16 bits give their high byte, and transparency is composited on white. Of an image more than 8 times
    longer than wide the middle 8:1 is cut out first, which bounds the memory.

    Args:
        content: of the file.
        size: in pixels.
        mode: `L` or `RGB`.
        resize: in pixels, at least `size`; None is `size`.

    Returns:
        uint8 `[size, size, C]`, and whether the file has more frames than this one.

    Raises:
        DataError: no image of a format in `formats`, one above the limit of pixels, or one with no 8-bit form.
        Exception: whatever Pillow raises on a damaged file.
    """
    image, has_more_frames = _read(content, mode)
    return _tensor(_middle(image, size, resize or size)), has_more_frames


def read_whole(content: bytes, mode: str) -> Tensor:
    """A whole image, uint8 `[H, W, C]`, with the pixels and errors of `read_square` before it resizes.

    Colour JPEGs are decoded by torchvision, others, and those that it refuses, by Pillow. Both use libjpeg-turbo with
    its accurate DCT: equal pixels where they have the same version of it, which a test checks.
    """
    if mode == "RGB" and _is_plain_jpeg(content):
        with contextlib.suppress(RuntimeError):  # damaged: Pillow says how, or reads it
            return _decode_jpeg(content)
    return _tensor(_read(content, mode)[0])


def _decode_jpeg(content: bytes) -> Tensor:
    """uint8 `[H, W, 3]`, by torchvision; raises `RuntimeError` for a damaged file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its decoders, since 0.29, in favour of TorchCodec
        from torchvision.io import ImageReadMode, decode_jpeg

        decoded: Tensor = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    return decoded.permute(1, 2, 0)


def _is_plain_jpeg(content: bytes) -> bool:
    """Whether a file is a JPEG of 8 bits and 1 or 3 channels within the limit of pixels, upright and a single picture.

    Only its header is read: the segments up to the first scan (ITU-T T.81, annex B).
    """
    position, is_plain = 2, False
    if content[:2] != b"\xff\xd8":
        return False
    while position + 10 <= len(content) and content[position] == 0xFF:
        marker, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4], "big")
        if marker == _START_OF_SCAN:
            return is_plain
        if marker in _FRAME_HEADERS:
            bits, height, width, channels = struct.unpack_from(">BHHB", content, position + 4)
            is_plain = bits == 8 and channels in (1, 3) and 0 < height * width <= _pixel_limit()
        if content[position + 4 : position + 8] in (b"Exif", b"MPF\0"):  # an orientation; further pictures
            return False
        position += 2 + length
    return False


def _tensor(image: PillowImage) -> Tensor:
    """uint8 `[H, W, C]`."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, len(image.getbands()))


def _read(content: bytes, mode: str) -> tuple[PillowImage, bool]:
    """The first frame, upright and opaque, and whether there are more."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=formats()) as opened:
            has_more_frames = getattr(opened, "is_animated", False)
            _check_transparent_colour(opened)
            table = _eight_bit_table(opened)
            ImageOps.exif_transpose(opened, in_place=True)
            if table is not None:
                return opened.convert("I").point(table, "L").convert(mode), has_more_frames
            if not opened.has_transparency_data:
                return opened.convert(mode), has_more_frames
            white = Image.new("RGBA", opened.size, "white")
            return Image.alpha_composite(white, opened.convert("RGBA")).convert(mode), has_more_frames
    except UnidentifiedImageError:
        raise DataError("not an image, or damaged at its beginning") from None
    except Image.DecompressionBombError as error:
        reason = str(error).partition(",")[0]
        raise DataError(f"{reason}; {PIXEL_LIMIT_VARIABLE}=PIXELS in the environment allows larger ones") from None


def _check_transparent_colour(opened: ImageFile) -> None:
    if opened.format == "PNG" and "transparency" in opened.info:
        raw_mode = opened.tile[0][3]
        if raw_mode in _KEYS_UNSCALED:
            raise DataError(f"a transparent colour with samples of {raw_mode}; save it with an alpha channel")


def _eight_bit_table(opened: ImageFile) -> bytes | None:
    """For an image of more than 8 bits: the grey value of each of 65536 values; None for all others.

    Raises:
        DataError: samples without a known range.
    """
    mode, name = opened.mode, opened.format
    if mode == "F":
        raise DataError(f"{name} with floating-point samples, which have no fixed range; convert it to 8 or 16 bits")
    if not mode.startswith("I"):
        return None
    if name not in _SIXTEEN_BITS or (mode == "I" and name == "TIFF"):
        raise DataError(f"{name} with signed or 32-bit samples, which have no fixed range; convert it to 8 or 16 bits")
    tags = getattr(opened, "tag_v2", {})
    return _high_bits(tags.get(258, (16,))[0], tags.get(262) == 0, opened.info.get("transparency"))


@functools.lru_cache(maxsize=1024)
def _high_bits(bits: int, is_white_zero: bool, transparent: int | None) -> bytes:
    """The high 8 of `bits` bits for each of 65536 values; white for the transparent one."""
    table = bytearray(min(value >> (bits - 8), 255) for value in range(1 << 16))
    if is_white_zero:
        table = bytearray(255 - value for value in table)
    if transparent is not None:
        table[transparent] = 255
    return bytes(table)


def _middle(image: PillowImage, size: int, resize: int) -> PillowImage:
    """The square in the middle, of an image whose shorter side is `resize` then."""
    from PIL import Image

    shorter = min(image.size)
    left, top = (max(0, (length - _LONGEST * shorter) // 2) for length in image.size)
    if left or top:
        image = image.crop((left, top, image.width - left, image.height - top))
    if shorter != resize:
        scaled = (image.width * resize // shorter, image.height * resize // shorter)
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))
