"""The task of all sides: networks, images, distribution of the views and hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from kdrun.data import Augmentation, ImageSet, Splits
from kdrun.models import mobilenetv2, resnet18, resnet20, resnet56
from kdrun.seeds import mix
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component, Recipe, Spec

BATCH_SIZE = 64
NUM_CLASSES = 100
CHANNELS, IMAGE_SIZE = 3, 32
MEAN = (0.5070751592, 0.4865488733, 0.4409178434)  # of CIFAR-100
STD = (0.2673342859, 0.2564384629, 0.2761504713)
TRAIN_SIZE, TEST_SIZE = 50_000, 10_000

LR = 0.05  # Tf-KD: 0.1 at batch 128; mdistiller: as it is
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
CORRECT_PROB = 0.99  # of Tf-KD_reg's virtual teacher


@dataclass(frozen=True)
class Pair:
    """A student with its teacher, by the names in `NETWORKS`, and what differs between the published recipes.

    Attributes:
        student: is trained.
        teacher: is frozen.
        alpha: weight of the soft targets.
        temperature: of the soft targets.
        kl_reduction: `mean` divides the divergence by the number of classes, `batchmean` does not.
        rotation: of the views, in degrees to either side.
    """

    student: str
    teacher: str
    alpha: float
    temperature: float = 20.0
    kl_reduction: str = "mean"
    rotation: float = 15.0

    @property
    def law(self) -> Augmentation:
        """The distribution of the views."""
        return Augmentation(crop_padding=4, flip=True, rotation=self.rotation)

    @property
    def recipe(self) -> Recipe:
        """One epoch; learning rate and optimiser are the recipe's defaults."""
        return Recipe(epochs=1, batch_size=BATCH_SIZE, augmentation=self.law)


PAIRS = {
    "mobilenetv2": Pair("mobilenetv2", "resnet18", alpha=0.95),  # Tf-KD
    "resnet18": Pair("resnet18", "resnet18", alpha=0.6),
    "resnet20": Pair("resnet20", "resnet56", alpha=0.9, temperature=4.0, kl_reduction="batchmean", rotation=0.0),
}
NETWORKS = {"mobilenetv2": mobilenetv2, "resnet18": resnet18, "resnet20": resnet20, "resnet56": resnet56}


def dataset(train_size: int, test_size: int) -> ImageDatasetSpec:
    """`random_images` for kdrun's runs."""
    return ImageDatasetSpec(
        target="benchmarks.task.random_images",
        identity="random-v1",
        num_classes=NUM_CLASSES,
        in_channels=CHANNELS,
        image_size=IMAGE_SIZE,
        train_size=train_size,
        test_size=test_size,
        mean=MEAN,
        std=STD,
    )


def kd_spec(
    pair: Pair,
    data: ImageDatasetSpec,
    *,
    precision: str,
    recipe: Recipe | None = None,
    temperature: float | None = None,
) -> Spec:
    """A student's run with an untrained teacher; recipe and temperature are the pair's by default."""
    recipe = recipe or pair.recipe
    untaught = Component("kdrun.methods.CE")
    teacher = Spec(data, _network(pair.teacher), untaught, recipe, precision=precision, stop_epoch=0)
    options = {
        "temperature": temperature or pair.temperature,
        "alpha": pair.alpha,
        "kl_reduction": pair.kl_reduction,
    }
    method = Component("kdrun.methods.KD", options)
    return Spec(data, _network(pair.student), method, recipe, precision=precision, teachers=(teacher,))


def _network(name: str) -> Component:
    return Component(f"kdrun.models.{name}")


def networks(pair: Pair) -> tuple[nn.Module, nn.Module]:
    """Student and teacher of a pair; the weights of each are a function of its name and role."""
    return _build(pair.student, "student"), _build(pair.teacher, "teacher")


def _build(name: str, role: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("benchmark", name, role))
        return NETWORKS[name](num_classes=NUM_CLASSES, in_channels=CHANNELS)


def random_images(num_classes: int, in_channels: int, image_size: int, train_size: int, test_size: int) -> Splits:
    """A dataset of noise, a function of the sizes, without intermediate copies, since time and memory are measured."""
    generator = torch.Generator().manual_seed(mix("benchmark", "images"))

    def images(size: int) -> ImageSet:
        shape = (size, image_size, image_size, in_channels)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return ImageSet(pixels, torch.randint(num_classes, (size,), generator=generator))

    names = tuple(f"class {label}" for label in range(num_classes))
    return Splits(train=images(train_size), test=images(test_size), class_names=names)


def image_sets(train_size: int, test_size: int) -> tuple[ImageSet, ImageSet]:
    """Training and test images of the benchmark's size and number of classes."""
    splits = random_images(NUM_CLASSES, CHANNELS, IMAGE_SIZE, train_size, test_size)
    assert isinstance(splits.train, ImageSet)
    assert isinstance(splits.test, ImageSet)
    return splits.train, splits.test
