"""Datasets as uint8 tensors, their selection, augmentation and batches.

The names a config uses (`_target_: kdrun.data.cifar100`) and the ones the rest of kdrun uses are all here.
"""

from .augmentation import Augmentation, Parameters, angle_degrees, augment
from .errors import DataError
from .files import data_home
from .loaders.cifar import cifar10, cifar100
from .loaders.digits import digits
from .loaders.folder import folder
from .loaders.mnist import fashion_mnist, mnist
from .loaders.synthetic import synthetic
from .loaders.tiny_imagenet import tiny_imagenet
from .resident import ResidentImages, batches, epoch_order
from .splits import (
    CONTENT_HASH,
    ImageSet,
    Selected,
    Splits,
    check,
    identity,
    relabelled,
    select,
    stratified_subset,
)
from .views import TrainingViews

__all__ = [
    "CONTENT_HASH",
    "Augmentation",
    "DataError",
    "ImageSet",
    "Parameters",
    "ResidentImages",
    "Selected",
    "Splits",
    "TrainingViews",
    "angle_degrees",
    "augment",
    "batches",
    "check",
    "cifar10",
    "cifar100",
    "data_home",
    "digits",
    "epoch_order",
    "fashion_mnist",
    "folder",
    "identity",
    "mnist",
    "relabelled",
    "select",
    "stratified_subset",
    "synthetic",
    "tiny_imagenet",
]
