"""Distils a teacher into a student with kdrun as a library: one file to copy and change.

    python examples/distill.py

A CNN is trained on handwritten digits, then teaches an MLP with the loss of Hinton et al. (2015), eq. 4 with T^2. For
comparison the same MLP is trained on labels alone. Any method of `kdrun.methods` can replace `KD`: its `needs` declare
the teacher outputs (logits, features, weights) that `LiveTeacher` provides.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from kdrun.data import Augmentation, ImageSet, ResidentImages, TrainingViews, digits
from kdrun.methods import CE, KD, Method
from kdrun.methods.base import Batch
from kdrun.models import cnn, mlp
from kdrun.training.teacher import LiveTeacher

EPOCHS, BATCH_SIZE, LR, SEED = 20, 64, 0.05, 0


def load() -> tuple[ResidentImages, ResidentImages]:
    """Training and test images, `[N, 1, 8, 8]` and normalised per batch."""
    splits = digits()

    assert isinstance(splits.train, ImageSet)
    assert isinstance(splits.test, ImageSet)
    mean, std = (0.3058,), (0.3759,)  # of the training images
    train, test = (ResidentImages(part, mean=mean, std=std, device="cpu") for part in (splits.train, splits.test))
    return train, test


def train(method: Method, images: ResidentImages, teacher: nn.Module | None = None) -> nn.Module:
    """Trains a method's student; returns it."""
    views = TrainingViews(images, Augmentation(), batch_size=BATCH_SIZE, seed=SEED)
    source = None if teacher is None else LiveTeacher(teacher, contextlib.nullcontext(), needs=method.needs)
    optimizer = torch.optim.SGD(method.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(views))
    generator = torch.Generator().manual_seed(SEED)  # for methods with random draws
    method.train()
    for epoch in range(EPOCHS):
        for step, (x, y, index, _) in enumerate(views.epoch(epoch)):
            batch = Batch(x, y, index, epoch, step, progress=epoch / EPOCHS, generator=generator)
            objective = method(batch, None if source is None else source(batch))
            optimizer.zero_grad()
            objective.loss.backward()
            optimizer.step()
            schedule.step()
    return method.delivered().eval()


@torch.no_grad()
def accuracy(network: nn.Module, images: ResidentImages) -> float:
    """Top-1 in percent on all images."""
    logits = network(images.batch(torch.arange(len(images))))
    return float(100 * (logits.argmax(dim=1) == images.labels).double().mean())


def main() -> None:
    train_images, test_images = load()

    def student() -> nn.Module:
        torch.manual_seed(SEED)
        return mlp(num_classes=10, in_channels=1, image_size=8, hidden=(32,))

    torch.manual_seed(SEED)
    teacher = train(CE(cnn(num_classes=10, in_channels=1, image_size=8)), train_images)
    alone = train(CE(student()), train_images)
    distilled = train(KD(student(), temperature=4.0, alpha=0.9), train_images, teacher)
    for name, network in (("teacher", teacher), ("student on labels", alone), ("distilled student", distilled)):
        print(f"{name:18} {accuracy(network, test_images):6.2f} %")


if __name__ == "__main__":
    main()
