"""Rows for parts of a training step: the views, the soft labels of Tf-KD_reg."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import ours, task
from benchmarks.reference import PILImages, training_loader
from benchmarks.released import virtual_teacher
from benchmarks.timing import Measurement, Progress, Side, alternate, num_threads
from kdrun.losses import virtual_teacher_probs


def input_pipeline(device: torch.device, progress: Progress) -> Measurement:
    """Random views, batch by batch, in this process on one core: PIL and torchvision against one gather per batch."""
    images, _ = task.image_sets(2048, 0)
    law = task.PAIRS["resnet18"].law
    cpu = torch.device("cpu")
    loader = training_loader(PILImages(images, law), 512, workers=0)
    views = ours.training_views(images, law, cpu)
    epochs = itertools.count()
    sides = {
        "released": Side(lambda: [batch for batch, _ in loader], units=512),
        "fp32": Side(lambda: [batch for batch, *_ in views.epoch(next(epochs))], units=2048),
    }
    with num_threads(1):
        return Measurement(alternate(sides, cpu, rounds=11, progress=progress), images=1, remark="one core")


def soft_labels(device: torch.device, progress: Progress) -> Measurement:
    """The virtual teacher's probabilities for a batch: a loop over the images against one scatter."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(task.BATCH_SIZE, task.NUM_CLASSES, generator=generator).to(device)
    labels = torch.randint(task.NUM_CLASSES, (task.BATCH_SIZE,), generator=generator).to(device)

    def repeated(build: Callable[[Tensor, Tensor, float], Tensor], calls: int) -> Side:
        def block() -> None:
            for _ in range(calls):
                build(logits, labels, task.CORRECT_PROB)

        return Side(block, units=calls)

    sides = {"released": repeated(virtual_teacher, 100), "fp32": repeated(virtual_teacher_probs, 5000)}
    return Measurement(alternate(sides, device, rounds=11, progress=progress), images=task.BATCH_SIZE)
