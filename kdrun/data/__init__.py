"""Datasets as tensors (images in uint8, sequences of tokens), their selection, augmentation and batches.

The names a config uses (`_target_: kdrun.data.cifar100`) and the ones the rest of kdrun uses are all here.
"""

from kdrun.spec.augmentation import Augmentation as Augmentation

from .augmentation import Parameters, angle_degrees, augment
from .decoding import undecoded
from .errors import DataError
from .files import data_home
from .image_files import composed
from .loaders.cifar import cifar10, cifar100
from .loaders.digits import digits
from .loaders.folder import folder
from .loaders.mnist import fashion_mnist, mnist
from .loaders.synthetic import synthetic
from .loaders.tiny_imagenet import tiny_imagenet
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
    "Parameters",
    "Resident",
    "ResidentImages",
    "ResidentSequences",
    "Selected",
    "SequenceSet",
    "Splits",
    "TrainingViews",
    "angle_degrees",
    "augment",
    "batches",
    "check_images",
    "check_sequences",
    "cifar10",
    "cifar100",
    "claims_identity",
    "composed",
    "data_home",
    "digits",
    "epoch_order",
    "fashion_mnist",
    "folder",
    "grouped_order",
    "identity",
    "mnist",
    "relabelled",
    "select",
    "stratified_subset",
    "synthetic",
    "tiny_imagenet",
    "undecoded",
]
