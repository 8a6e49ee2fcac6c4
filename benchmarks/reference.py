"""The reference: training in the manner of the code released with the Tf-KD paper (Yuan et al. 2020).

fp32 in NCHW memory; torchvision's per-sample transforms of PIL images in a DataLoader with workers; the teacher's
forward pass with autograd on; the loss, the number of correct answers and a progress bar read from the device at every
step; an optimiser that is not fused; evaluation without `no_grad`. Written from a description of that code, which no
longer runs. The networks are kdrun's definitions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from tqdm import tqdm

from benchmarks.task import BATCH_SIZE, IMAGE_SIZE, LAW, LR, MEAN, MOMENTUM, STD, TEMPERATURE, WEIGHT_DECAY
from kdrun.data import ImageSet
from kdrun.experiment.environment import num_cores

RELEASED_WORKERS = 4


def num_workers() -> int:
    """Workers of its DataLoader: four as released, at most the number of cores."""
    return min(RELEASED_WORKERS, num_cores())


class PILImages(Dataset[tuple[Tensor, int]]):
    """Image arrays converted to PIL images one at a time, as in torchvision's CIFAR datasets."""

    def __init__(self, images: ImageSet, transform: Callable[[Any], Tensor]) -> None:
        self._arrays = images.images.numpy()
        self._labels = images.labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self._transform(Image.fromarray(self._arrays[position])), self._labels[position]


def training_loader(images: ImageSet, *, workers: int, num_images: int | None = None) -> DataLoader[Any]:
    """Batches of random views in random order.

    Args:
        images: the training set.
        workers: processes; 0 computes the views in this process.
        num_images: length of an epoch; None: each image once. A longer epoch repeats the images with the same
            workers.
    """
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomCrop(IMAGE_SIZE, padding=LAW.crop_padding),
            transforms.RandomHorizontalFlip(),
            transforms.RandomRotation(LAW.rotation),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    data = PILImages(images, transform)
    sampler = RandomSampler(data, num_samples=num_images)
    return DataLoader(data, batch_size=BATCH_SIZE, sampler=sampler, num_workers=workers)


def test_loader(images: ImageSet, *, workers: int) -> DataLoader[Any]:
    """Batches of the images without augmentation."""
    from torchvision import transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    return DataLoader(PILImages(images, transform), batch_size=BATCH_SIZE, num_workers=workers)


def kd_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor, *, alpha: float, temperature: float) -> Tensor:
    """`(1 - alpha) CE + alpha T^2 KL / K` as released: `nn.KLDivLoss()` averages over all N K elements.

    Args:
        logits: the student's, `[N, K]`.
        labels: `[N]`, int64.
        teacher_logits: `[N, K]`.
        alpha: weight of the soft targets, in [0, 1].
        temperature: T > 0, on both sides.
    """
    log_probs = F.log_softmax(logits / temperature, dim=1)
    soft_targets = F.softmax(teacher_logits / temperature, dim=1)
    kl = F.kl_div(log_probs, soft_targets, reduction="none").mean()  # equals reduction="mean", which warns
    return kl * (alpha * temperature * temperature) + F.cross_entropy(logits, labels) * (1.0 - alpha)


def virtual_teacher(logits: Tensor, labels: Tensor, correct_prob: float) -> Tensor:
    """The probabilities `[N, K]` of Tf-KD_reg's virtual teacher, one image at a time as released."""
    num_classes = logits.shape[1]
    probs = torch.ones_like(logits)
    probs = probs * (1 - correct_prob) / (num_classes - 1)
    for i in range(len(labels)):
        probs[i, labels[i]] = correct_prob
    return probs


class Reference:
    """The training loop.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        teacher: likewise.
        alpha: weight of the soft targets.
        temperature: of the soft targets.
        device: where it computes.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        alpha: float,
        device: torch.device,
        temperature: float = TEMPERATURE,
    ) -> None:
        self.student = student.to(device)
        self._teacher = teacher.to(device)
        self._alpha = alpha
        self._temperature = temperature
        self._device = device
        self._optimizer = torch.optim.SGD(
            self.student.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )

    def step(self, images: Tensor, labels: Tensor) -> tuple[float, int]:
        """One training step on a batch `[N, C, H, W]` with labels `[N]`: its loss and number of correct predictions."""
        images, labels = images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)
        logits = self.student(images)
        teacher_logits = self._teacher(images).detach()  # recorded for autograd, then detached
        loss = kd_loss(logits, labels, teacher_logits, alpha=self._alpha, temperature=self._temperature)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        correct = int(logits.argmax(dim=1).eq(labels).sum().item())
        return loss.item(), correct

    def epoch(self, loader: DataLoader[Any]) -> Generator[float, None, None]:
        """Trains on all batches; yields the mean loss so far after each step."""
        self.student.train()
        self._teacher.eval()
        total = correct = images_seen = 0.0
        with open(os.devnull, "w") as nowhere, tqdm(total=len(loader), file=nowhere) as bar:
            for images, labels in loader:
                with _tf32(self._device):
                    loss, right = self.step(images, labels)
                images_seen += len(labels)
                total += loss * len(labels)
                correct += right
                bar.set_postfix(loss=f"{total / images_seen:05.3f}", acc=f"{correct / images_seen:05.3f}")
                bar.update()
                yield total / images_seen

    def evaluate(self, loader: DataLoader[Any]) -> float:
        """Top-1 in percent; with autograd on."""
        self.student.eval()
        correct = images_seen = 0
        for images, labels in loader:
            with _tf32(self._device):
                logits = self.student(images.to(self._device))
            correct += int(logits.argmax(dim=1).eq(labels.to(self._device)).sum().item())
            images_seen += len(labels)
        return 100 * correct / images_seen

    def state_dict(self) -> dict[str, Any]:
        """The state saved after each epoch."""
        return {"state_dict": self.student.state_dict(), "optim_dict": self._optimizer.state_dict()}


def _tf32(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Default of torch for convolutions on CUDA, which kdrun changes for the whole process."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=True)
    return context
