"""A rehearsal: builds everything a run needs, times a few steps on random images, and writes nothing."""

from __future__ import annotations

import math
import time

import torch
from torch import nn

from kdrun.experiment.build import build_method, build_optimisation, build_student, method_class
from kdrun.experiment.cost import macs_per_image, threads_for
from kdrun.experiment.spec import DatasetSpec, Spec
from kdrun.methods import Batch, TeacherOutput
from kdrun.models.cost import num_parameters
from kdrun.training.precision import autocast, on_device
from kdrun.training.teacher import LiveTeacher

TIMED_STEPS = 2


def dry_run(spec: Spec, device: torch.device, *, role: str) -> str:
    """A line about a run, without its teachers': parameters, MACs per image, estimated time of training.

    The estimate is that of the training steps and of the evaluation after each epoch, on this machine as busy as it is.
    """
    student = build_student(spec.student, spec.dataset)
    macs = macs_per_image(spec)
    torch.set_num_threads(threads_for(spec, device))
    step, evaluation = _seconds(spec, student, device)
    steps = math.ceil(_train_images(spec.dataset) / spec.recipe.batch_size)
    total = spec.epochs_trained * (steps * step + evaluation * spec.dataset.test_size)
    return (
        f"{role} {spec.student.name} {method_class(spec.method).name} on {spec.dataset.name} ({spec.run_id}): "
        f"{num_parameters(student):,} parameters, {macs / 1e6:.2f} M MACs per image, "
        f"{spec.epochs_trained} epochs of {steps} steps at {1000 * step:.0f} ms: "
        f"about {_duration(total)} on {device.type}"
    )


def _seconds(spec: Spec, student: nn.Module, device: torch.device) -> tuple[float, float]:
    """Seconds of one training step, and of evaluating one image."""
    student = on_device(student, device)
    method = build_method(spec.method, student).to(device).train()
    optimizer, _ = build_optimisation(spec.recipe, method, 1)
    context = autocast(device, spec.precision)
    networks = [build_student(teacher.student, teacher.dataset) for teacher in spec.teachers]
    teachers = [LiveTeacher(on_device(network, device), context) for network in networks]
    batch = _random_batch(spec, device)

    def step() -> None:
        output: TeacherOutput | None = teachers[0](batch) if teachers else None
        with context:
            loss = method(batch, output).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    step()
    training = _timed(step, device) / TIMED_STEPS
    images = batch.x

    @torch.no_grad()
    def evaluate() -> None:
        with context:
            student.eval()(images)

    return training, _timed(evaluate, device) / TIMED_STEPS / len(images)


def _timed(function: object, device: torch.device) -> float:
    started = time.perf_counter()
    for _ in range(TIMED_STEPS):
        function()  # type: ignore[operator]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _random_batch(spec: Spec, device: torch.device) -> Batch:
    size, pixels = spec.recipe.batch_size, spec.dataset.image_size
    x = torch.randn(size, spec.dataset.in_channels, pixels, pixels, device=device).to(memory_format=torch.channels_last)
    y = torch.randint(spec.dataset.num_classes, (size,), device=device)
    index = torch.arange(size, device=device)
    return Batch(x, y, index, epoch=0, step=0, progress=0.0, generator=torch.Generator(device))


def _train_images(dataset: DatasetSpec) -> int:
    """Images trained on, to a rounding per class."""
    share = len(dataset.classes) / dataset.num_classes if dataset.classes is not None else 1.0
    return max(2, round(dataset.train_size * (1 - dataset.val_fraction) * dataset.train_fraction * share))


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"
