"""Rows for parts of a training step: the views, the teacher's forward pass, the soft labels of Tf-KD_reg."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import ours, reference, task
from benchmarks.measurement import Measurement, compared
from benchmarks.timing import Side, alternate, fastest, num_threads
from kdrun.losses import virtual_teacher_probs
from kdrun.methods import Batch

CPU = torch.device("cpu")
Progress = Callable[[str], None]


def input_pipeline(device: torch.device, progress: Progress) -> Measurement:
    """Random views, batch by batch, in this process on one core: PIL and torchvision against one gather per batch."""
    images = task.training_images(2048)
    loader = reference.training_loader(images, workers=0, num_images=512)
    views = ours.training_views(images, CPU)
    epochs = itertools.count()
    sides = (
        Side(lambda: [batch for batch, _ in loader], units=512, device=CPU),
        Side(lambda: [batch for batch, *_ in views.epoch(next(epochs))], units=2048, device=CPU),
    )
    with num_threads(1):
        times = alternate(*sides, pairs=11, progress=progress)
    return compared(times, images=1, first=(sides[0].warm_up(), sides[1].warm_up()), remark="one core")


def teacher_forward(device: torch.device, progress: Progress) -> Measurement:
    """The teacher's logits of a batch: with autograd in fp32 against kdrun's frozen teacher."""
    steps = {"cpu": 2, "cuda": 50}[device.type]
    x = torch.randn(
        task.BATCH_SIZE, task.CHANNELS, task.IMAGE_SIZE, task.IMAGE_SIZE, generator=torch.Generator().manual_seed(0)
    ).to(device)
    network = task.build_network(task.TEACHER, "teacher").eval().to(device)

    def recorded() -> None:
        for _ in range(steps):
            network(x).detach()

    labels = torch.zeros(task.BATCH_SIZE, dtype=torch.int64, device=device)
    positions = torch.arange(task.BATCH_SIZE, device=device)
    views = x.to(memory_format=torch.channels_last)
    batch = Batch(x=views, y=labels, index=positions, epoch=0, step=0, progress=0.0, generator=torch.Generator(device))

    def frozen(precision: str) -> Side:
        teacher = ours.live_teacher(task.build_network(task.TEACHER, "teacher"), device, precision)
        return Side(lambda: [teacher(batch) for _ in range(steps)], units=steps, device=device)

    progress("fp32 or bf16")
    candidates = {precision: frozen(precision) for precision in ("fp32", "bf16")}
    precision = fastest(candidates)
    sides = (Side(recorded, units=steps, device=device), candidates[precision])
    times = alternate(*sides, pairs=9, progress=progress)
    return compared(times, images=task.BATCH_SIZE, first=(sides[0].warm_up(), sides[1].warm_up()), remark=precision)


def soft_labels(device: torch.device, progress: Progress) -> Measurement:
    """The virtual teacher's probabilities for a batch: a loop over the images against one scatter."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(task.BATCH_SIZE, task.NUM_CLASSES, generator=generator).to(device)
    labels = torch.randint(task.NUM_CLASSES, (task.BATCH_SIZE,), generator=generator).to(device)

    def repeated(build: Callable[[Tensor, Tensor, float], Tensor], calls: int) -> Side:
        def block() -> None:
            for _ in range(calls):
                build(logits, labels, task.CORRECT_PROB)

        return Side(block, units=calls, device=device)

    sides = (repeated(reference.virtual_teacher, 100), repeated(virtual_teacher_probs, 5000))
    times = alternate(*sides, pairs=11, progress=progress)
    return compared(times, images=None, first=(sides[0].warm_up(), sides[1].warm_up()))
