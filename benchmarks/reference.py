"""What the reference loops share: their data, their interface, and how they are run.

Networks are kdrun's definitions. Views come from torchvision's transforms of PIL images, one at a time, in a DataLoader
with workers that end with the epoch.
"""

from __future__ import annotations

import abc
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.task import BATCH_SIZE, IMAGE_SIZE, LR, MEAN, MOMENTUM, STD, WEIGHT_DECAY, Pair, image_sets, networks
from kdrun.data import Augmentation, ImageSet
from kdrun.experiment.environment import num_cores

STEP_IMAGES = 2048
"""Training images of a side whose steps are timed; a longer epoch repeats them with the same workers."""
MAX_WORKERS = 4
TEST_SIZE = 256


class Loop(abc.ABC):
    """Trains the student of a pair.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        teacher: likewise.
        pair: the hyper-parameters.
        data: training set and test set.
        num_images: of an epoch; more than the training set repeats images.
        device: where it computes.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        pair: Pair,
        data: tuple[PILImages, PILImages],
        *,
        num_images: int,
        device: torch.device,
    ) -> None:
        self.student, self.teacher = student.to(device), teacher.to(device)
        self.pair = pair
        self.train, self.test = training_loader(data[0], num_images), test_loader(data[1])
        self.optimizer = torch.optim.SGD(student.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        self.device = device

    @abc.abstractmethod
    def step(self, images: Tensor, labels: Tensor) -> float:
        """One training step on a batch `[N, C, H, W]` with labels `[N]`; returns its loss."""

    @abc.abstractmethod
    def epoch(self) -> Iterator[float]:
        """Trains for an epoch; yields the loss of each step after it."""

    @abc.abstractmethod
    def evaluate(self) -> float:
        """Top-1 in percent on the test set."""

    def save(self, path: Path) -> None:
        """Writes the checkpoint of an epoch."""
        torch.save({"model": self.student.state_dict(), "optimizer": self.optimizer.state_dict()}, path)


class PILImages(Dataset[tuple[Tensor, int]]):
    """Image arrays converted to PIL images one at a time, as in torchvision's CIFAR datasets.

    Args:
        images: the arrays.
        law: distribution of the views; None: the images as they are.
    """

    def __init__(self, images: ImageSet, law: Augmentation | None = None) -> None:
        from torchvision import transforms

        self._arrays = images.images.numpy()
        self._labels = images.labels.tolist()
        steps: list[Callable[[Any], Any]] = []
        if law is not None:
            steps += [transforms.RandomCrop(IMAGE_SIZE, padding=law.crop_padding), transforms.RandomHorizontalFlip()]
        if law is not None and law.rotation:
            steps.append(transforms.RandomRotation(law.rotation))
        self._transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self._transform(Image.fromarray(self._arrays[position])), self._labels[position]


def num_workers() -> int:
    """Workers of a DataLoader: four, at most the number of cores."""
    return min(MAX_WORKERS, num_cores())


def training_loader(data: PILImages, num_images: int, workers: int | None = None) -> DataLoader[Any]:
    """Batches in random order; `workers` None is `num_workers()`, 0 computes the views in this process."""
    workers = num_workers() if workers is None else workers
    sampler = RandomSampler(data, num_samples=num_images)
    return DataLoader(data, batch_size=BATCH_SIZE, sampler=sampler, num_workers=workers)


def test_loader(data: PILImages) -> DataLoader[Any]:
    """Batches in order."""
    return DataLoader(data, batch_size=BATCH_SIZE, num_workers=num_workers())


def build(
    loop: type[Loop], pair: Pair, images: tuple[ImageSet, ImageSet], device: torch.device, *, num_images: int
) -> Loop:
    """A loop with its networks, on training and test images."""
    data = (PILImages(images[0], pair.law), PILImages(images[1]))
    return loop(*networks(pair), pair, data, num_images=num_images, device=device)


def steps(loop: type[Loop], pair: Pair, device: torch.device, number: int) -> Iterator[float]:
    """Training steps, one by one; the set-up is part of the first."""
    images = image_sets(STEP_IMAGES, TEST_SIZE)
    yield from build(loop, pair, images, device, num_images=number * BATCH_SIZE).epoch()


def run(loop: type[Loop], pair: Pair, images: tuple[ImageSet, ImageSet], device: torch.device) -> None:
    """A whole run: networks, one epoch of the training images, evaluation on the test images, checkpoint."""
    built = build(loop, pair, images, device, num_images=len(images[0]))
    for _ in built.epoch():
        pass
    built.evaluate()
    with tempfile.TemporaryDirectory() as directory:
        built.save(Path(directory) / "checkpoint.pt")


def warm_up(loop: type[Loop], pair: Pair, device: torch.device) -> None:
    """A run of one batch: what is set up once in a process is set up by it."""
    run(loop, pair, image_sets(BATCH_SIZE, BATCH_SIZE), device)


def default_tf32(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """The default of torch for convolutions on CUDA, changed by kdrun for the whole process."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=True)
    return context
