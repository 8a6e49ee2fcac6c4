"""The handwritten digits that come with kdrun: real images, no download, seconds to train on.

They are the 1,797 test images of the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin and Kaynak 1998),
known from scikit-learn's `load_digits`; see `digits.LICENSE.md`.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import lzma

import torch

from ..errors import DataError
from ..splits import ImageSet, Splits

SHA256 = "aff69f55b11298dd7d69adf6f09cf01788b8d420dc1700a12bf39b3feb832dcc"
NUM_TRAIN, NUM_TEST = 1437, 360
_SIDE, _LARGEST_VALUE = 8, 16


def digits() -> Splits:
    """1,437 + 360 handwritten digits, 8x8 grey, 10 classes, the same share of every class in both.

    Raises:
        DataError: the file in the installed package is damaged.
    """
    compressed = importlib.resources.files(__package__).joinpath("digits.xz").read_bytes()
    try:
        content = lzma.decompress(compressed)
    except lzma.LZMAError as error:
        raise DataError(f"the digits in the installed package are damaged ({error}); install kdrun again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise DataError(f"the digits in the installed package have sha256 {found}, expected {SHA256}")

    # All pixels (values 0 to 16), then all labels, each one byte; training images first.
    values = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    num_pixels = (NUM_TRAIN + NUM_TEST) * _SIDE**2
    pixels, labels = values[:num_pixels], values[num_pixels:].long()
    images = (pixels.float() * (255 / _LARGEST_VALUE)).round().to(torch.uint8).view(-1, _SIDE, _SIDE, 1)
    return Splits(
        train=ImageSet(images[:NUM_TRAIN], labels[:NUM_TRAIN]),
        test=ImageSet(images[NUM_TRAIN:], labels[NUM_TRAIN:]),
        class_names=tuple("0123456789"),
    )
