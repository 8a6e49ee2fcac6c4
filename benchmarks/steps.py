"""Rows for whole distillation steps: views, teacher, student, optimiser and metrics."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from benchmarks import ours, reference, task
from benchmarks.mdistiller import MDistiller
from benchmarks.released import Released, TwoLines
from benchmarks.timing import Measurement, Progress, Side, alternate
from benchmarks.worker import torchdistill
from kdrun.models.cost import num_macs
from kdrun.spec.spec import Recipe
from kdrun.training.guarded import GuardedStep
from kdrun.training.step import Step

ROUNDS = 5
STEPS = {"cpu": 2, "cuda": 50}
"""Steps per block. On the CPU the workers finish the next batch within a step."""

H200_FLOPS = 790e12
H200_BYTES_PER_SECOND = 4.3e12
BYTES_PER_IMAGE = {"mobilenetv2": 10.4e6, "resnet18": 8.1e6}
"""Minimal traffic of a training step in bf16: inputs and outputs of the convolutions, once per pass."""

PRECISIONS = ("fp32", "bf16")


def kd_step(name: str, device: torch.device, progress: Progress) -> Measurement:
    """Training steps of a pair: kdrun against the released loop, the same with two lines more, and torchdistill."""
    number = STEPS[device.type]
    total = (ROUNDS + 1) * number
    pair = task.PAIRS[name]
    with torchdistill(name, device, steps=number, blocks=ROUNDS + 1) as request:
        sides = {
            "released": _side(reference.steps(Released, pair, device, total), number),
            "two_lines": _side(reference.steps(TwoLines, pair, device, total), number),
            "torchdistill": Side(lambda: request("steps"), units=number),
            **{precision: _side(_kdrun_steps(pair, precision, device), number) for precision in PRECISIONS},
        }
        times = alternate(sides, device, rounds=ROUNDS, progress=progress)
    return Measurement(times, images=task.BATCH_SIZE, remark=_workers(), roof=_roof_seconds(pair, device))


def mdistiller_step(name: str, device: torch.device, progress: Progress) -> Measurement:
    """Training steps of a pair: kdrun against mdistiller's."""
    number = STEPS[device.type]
    pair = task.PAIRS[name]
    sides = {
        "mdistiller": _side(reference.steps(MDistiller, pair, device, (ROUNDS + 1) * number), number),
        **{precision: _side(_kdrun_steps(pair, precision, device), number) for precision in PRECISIONS},
    }
    times = alternate(sides, device, rounds=ROUNDS, progress=progress)
    return Measurement(times, images=task.BATCH_SIZE, remark=_workers())


def _side(steps: Iterator[object], number: int) -> Side:
    return Side(lambda: list(itertools.islice(steps, number)), units=number)


def _workers() -> str:
    return f"{reference.num_workers()} loader workers"


def _kdrun_steps(pair: task.Pair, precision: str, device: torch.device) -> Iterator[Step | GuardedStep]:
    """Steps of kdrun, computed as in a whole run on CIFAR-100."""
    full_size = task.kd_spec(
        pair,
        task.dataset(task.TRAIN_SIZE, task.TEST_SIZE),
        precision=precision,
        recipe=Recipe(batch_size=task.BATCH_SIZE, augmentation=pair.law),
    )
    images, _ = task.image_sets(reference.STEP_IMAGES, 0)
    views = ours.training_views(images, pair.law, device)
    choices = ours.choices_of(full_size, device)
    yield from ours.kd_steps(*task.networks(pair), pair, views, choices, precision=precision, device=device)


def _roof_seconds(pair: task.Pair, device: torch.device) -> float | None:
    """Seconds of a step on an H200 at the limit of its arithmetic or memory; None on other devices.

    Forward and backward of the student are three times its forward pass; the teacher is bound by arithmetic.
    """
    if device.type != "cuda" or "H200" not in torch.cuda.get_device_name(device):
        return None
    shape = (task.CHANNELS, task.IMAGE_SIZE, task.IMAGE_SIZE)
    student, teacher = (2 * num_macs(network, shape) for network in task.networks(pair))
    training = max(3 * student / H200_FLOPS, BYTES_PER_IMAGE[pair.student] / H200_BYTES_PER_SECOND)
    return task.BATCH_SIZE * (training + teacher / H200_FLOPS)
