"""Rows for whole distillation steps: views, teacher, student, optimiser and metrics."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch

from benchmarks import ours, task
from benchmarks.measurement import Measurement, compared
from benchmarks.reference import Reference, num_workers, training_loader
from benchmarks.timing import Side, alternate, fastest
from kdrun.models.cost import num_macs
from kdrun.spec.spec import Recipe
from kdrun.training.guarded import GuardedStep
from kdrun.training.step import Step

NUM_IMAGES = 2048
PAIRS = 7
STEPS = {"cpu": 2, "cuda": 50}
"""Steps per block. On the CPU the workers finish the next batch within a step."""

H200_FLOPS = 790e12
H200_BYTES_PER_SECOND = 4.3e12
BYTES_PER_IMAGE = {"mobilenetv2": 10.4e6, "resnet18": 8.1e6}
"""Minimal traffic of a training step in bf16: inputs and outputs of the convolutions, once per pass."""


@dataclass(frozen=True)
class Choice:
    """The faster precision for kdrun's steps on this machine, and the seconds of its first block."""

    precision: str
    first_seconds: float


def kd_step(student: str, device: torch.device, progress: Callable[[str], None]) -> Measurement:
    """Training steps of a student with a ResNet18 teacher."""
    progress("fp32 or bf16")
    choice = choose_precision(student, device)
    steps = STEPS[device.type]
    with contextlib.closing(_reference_steps(student, device, (PAIRS + 1) * steps)) as theirs:
        sides = (
            _block(theirs, device),
            _block(_kdrun_steps(student, choice.precision, device), device),
        )
        times = alternate(*sides, pairs=PAIRS, progress=progress)
    return compared(
        times,
        images=task.BATCH_SIZE,
        first=(sides[0].warm_up(), choice.first_seconds),
        remark=f"{choice.precision}; {num_workers()} loader workers",
        roof=_roof_seconds(student, device),
    )


@functools.cache
def choose_precision(student: str, device: torch.device) -> Choice:
    """Times some of kdrun's steps in fp32 and in bf16; which is faster depends on the machine."""
    sides = {precision: _block(_kdrun_steps(student, precision, device), device) for precision in ("fp32", "bf16")}
    precision = fastest(sides)
    return Choice(precision, sides[precision].warm_up())


def _block(steps: Iterator[object], device: torch.device) -> Side:
    number = STEPS[device.type]
    return Side(lambda: list(itertools.islice(steps, number)), units=number, device=device)


def _reference_steps(student: str, device: torch.device, number: int) -> Generator[float, None, None]:
    """The reference's steps; the set-up happens at the first one, and so is part of the first block's time."""
    loop = Reference(
        task.build_network(student, "student"),
        task.build_network(task.TEACHER, "teacher"),
        alpha=task.ALPHA[student],
        device=device,
    )
    images = task.training_images(NUM_IMAGES)
    yield from loop.epoch(training_loader(images, workers=num_workers(), num_images=number * task.BATCH_SIZE))


def _kdrun_steps(student: str, precision: str, device: torch.device) -> Iterator[Step | GuardedStep]:
    """Steps of kdrun, computed as in a whole run on CIFAR-100."""
    full_size = task.kd_spec(
        student,
        task.dataset(task.TRAIN_SIZE, task.TEST_SIZE),
        precision=precision,
        recipe=Recipe(batch_size=task.BATCH_SIZE, augmentation=task.LAW),
    )
    yield from ours.kd_steps(
        task.build_network(student, "student"),
        task.build_network(task.TEACHER, "teacher"),
        ours.training_views(task.training_images(NUM_IMAGES), device),
        ours.choices_of(full_size, device),
        alpha=task.ALPHA[student],
        precision=precision,
        device=device,
    )


def _roof_seconds(student: str, device: torch.device) -> float | None:
    """Seconds of a step on an H200 at the limit of its arithmetic or memory; None on other devices.

    Forward and backward of the student are three times its forward pass; the teacher is bound by arithmetic.
    """
    if device.type != "cuda" or "H200" not in torch.cuda.get_device_name(device):
        return None
    flops = {
        name: 2 * num_macs(task.build_network(name, ""), (task.CHANNELS, task.IMAGE_SIZE, task.IMAGE_SIZE))
        for name in (student, task.TEACHER)
    }
    training = max(3 * flops[student] / H200_FLOPS, BYTES_PER_IMAGE[student] / H200_BYTES_PER_SECOND)
    return task.BATCH_SIZE * (training + flops[task.TEACHER] / H200_FLOPS)
