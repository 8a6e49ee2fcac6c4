"""Datasets as tensors (images in uint8, sequences of tokens), their selection, augmentation and batches.

The names that the rest of kdrun uses are all here; a loader (`_target_: kdrun.data.cifar100`) is found by its name in
the modules of `kdrun.data.loaders`.
"""

from collections.abc import Callable

from kdrun import lazy
from kdrun.spec.augmentation import Augmentation as Augmentation

from .augmentation import augment
from .decoding import decode, decode_set, encoded_splits
from .downloads import data_home
from .encoded import EncodedSet, Form, ImageStore
from .errors import DataError
from .image_files import composed
from .order import batches, epoch_order, grouped_order
from .resident import Resident, ResidentImages, ResidentSequences
from .splits import (
    CONTENT_HASH,
    FILES_HASH,
    Examples,
    ImageSet,
    Selected,
    SequenceSet,
    Splits,
    check_images,
    check_present,
    check_sequences,
    claims_identity,
    identity,
    is_streamable,
    relabelled,
    select,
    stratified_subset,
    streamable,
)
from .streamed import StreamedImages, Workers, default_processes
from .views import TrainingViews

__all__ = [
    "CONTENT_HASH",
    "FILES_HASH",
    "Augmentation",
    "DataError",
    "EncodedSet",
    "Examples",
    "Form",
    "ImageSet",
    "ImageStore",
    "Resident",
    "ResidentImages",
    "ResidentSequences",
    "Selected",
    "SequenceSet",
    "Splits",
    "StreamedImages",
    "TrainingViews",
    "Workers",
    "augment",
    "batches",
    "check_images",
    "check_present",
    "check_sequences",
    "claims_identity",
    "composed",
    "data_home",
    "decode",
    "decode_set",
    "default_processes",
    "encoded_splits",
    "epoch_order",
    "grouped_order",
    "identity",
    "is_streamable",
    "relabelled",
    "select",
    "stratified_subset",
    "streamable",
]


def __getattr__(name: str) -> Callable[..., Splits]:
    loader: Callable[..., Splits] = lazy.attribute(f"{__name__}.loaders", name)
    return loader
