"""Datasets as tensors (images in uint8, sequences of tokens), their selection, augmentation and batches.

The names that the rest of kdrun uses are all here; a loader (`_target_: kdrun.data.cifar100`) is found by its name in
the modules of `kdrun.data.loaders`.
"""

from collections.abc import Callable

from kdrun import lazy
from kdrun.spec.augmentation import Augmentation as Augmentation

from .augmentation import augment
from .decoding import undecoded
from .downloads import data_home
from .errors import DataError
from .image_files import composed
from .resident import Resident, ResidentImages, ResidentSequences, batches, epoch_order, grouped_order
from .splits import (
    CONTENT_HASH,
    NOT_DECODED,
    Examples,
    ImageSet,
    Selected,
    SequenceSet,
    Splits,
    check_images,
    check_sequences,
    claims_identity,
    identity,
    relabelled,
    select,
    stratified_subset,
)
from .views import TrainingViews

__all__ = [
    "CONTENT_HASH",
    "NOT_DECODED",
    "Augmentation",
    "DataError",
    "Examples",
    "ImageSet",
    "Resident",
    "ResidentImages",
    "ResidentSequences",
    "Selected",
    "SequenceSet",
    "Splits",
    "TrainingViews",
    "augment",
    "batches",
    "check_images",
    "check_sequences",
    "claims_identity",
    "composed",
    "data_home",
    "epoch_order",
    "grouped_order",
    "identity",
    "relabelled",
    "select",
    "stratified_subset",
    "undecoded",
]


def __getattr__(name: str) -> Callable[..., Splits]:
    loader: Callable[..., Splits] = lazy.attribute(f"{__name__}.loaders", name)
    return loader
