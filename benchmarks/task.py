"""The task of both sides: networks, images, distribution of the views and the hyper-parameters of Tf-KD."""

from __future__ import annotations

import torch
from torch import nn

from kdrun.data import Augmentation, ImageSet, Splits
from kdrun.models import mobilenetv2, resnet18
from kdrun.seeds import mix
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component, Recipe, Spec

BATCH_SIZE = 64
NUM_CLASSES = 100
CHANNELS, IMAGE_SIZE = 3, 32
MEAN = (0.5070751592, 0.4865488733, 0.4409178434)  # of CIFAR-100
STD = (0.2673342859, 0.2564384629, 0.2761504713)
LAW = Augmentation(crop_padding=4, flip=True, rotation=15.0)

LR = 0.05  # 0.1 at batch 128
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
TEMPERATURE = 20.0
CORRECT_PROB = 0.99  # of Tf-KD_reg's virtual teacher
ALPHA = {"mobilenetv2": 0.95, "resnet18": 0.6}  # by student
NETWORKS = {"mobilenetv2": mobilenetv2, "resnet18": resnet18}
TEACHER = "resnet18"

RECIPE = Recipe(epochs=1, batch_size=BATCH_SIZE, augmentation=LAW)
UNTAUGHT = Component("kdrun.methods.CE")
TRAIN_SIZE, TEST_SIZE = 50_000, 10_000  # of CIFAR-100


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
    student: str, data: ImageDatasetSpec, *, precision: str, recipe: Recipe = RECIPE, temperature: float = TEMPERATURE
) -> Spec:
    """A student's run with an untrained ResNet18 as teacher."""
    teacher = Spec(data, _network(TEACHER), UNTAUGHT, recipe, precision=precision, stop_epoch=0)
    options = {"temperature": temperature, "alpha": ALPHA[student], "kl_reduction": "mean"}
    method = Component("kdrun.methods.KD", options)
    return Spec(data, _network(student), method, recipe, precision=precision, teachers=(teacher,))


def _network(name: str) -> Component:
    return Component(f"kdrun.models.{name}")


def build_network(name: str, role: str) -> nn.Module:
    """A network of `NETWORKS`; its weights are a function of name and role."""
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


def training_images(num_images: int) -> ImageSet:
    """Random images with the benchmark's size and number of classes."""
    found = random_images(NUM_CLASSES, CHANNELS, IMAGE_SIZE, num_images, 0).train
    assert isinstance(found, ImageSet)
    return found
