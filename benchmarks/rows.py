"""The rows of the benchmark by name, with their gates and aims."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks import memory, parts, steps, sweep
from benchmarks.measurement import Measurement

RATIO, BYTES = "x", "bytes"


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        title: in a few words.
        measure: measures on a device, reporting progress by its second argument.
        gate: lower bound on the CPU; in bytes an upper bound. None: no bound.
        aim: intended value on the CPU.
        cuda: gate and aim on a CUDA device; None: as on the CPU.
        unit: of ratio, gate and aim: `x` (speed-up over the reference) or `bytes`.
    """

    title: str
    measure: Callable[[torch.device, Callable[[str], None]], Measurement]
    gate: float | None
    aim: float | None
    cuda: tuple[float | None, float | None] | None = None
    unit: str = RATIO

    def goals(self, device: torch.device) -> tuple[float | None, float | None]:
        """Gate and aim on a device."""
        return self.cuda if device.type == "cuda" and self.cuda is not None else (self.gate, self.aim)

    def passes(self, measured: Measurement, gate: float) -> bool:
        """Whether a figure meets a gate."""
        return measured.ratio >= gate if self.unit == RATIO else measured.ratio <= gate


def _step(student: str) -> Callable[[torch.device, Callable[[str], None]], Measurement]:
    return functools.partial(steps.kd_step, student)


def _sweep(student: str) -> Callable[[torch.device, Callable[[str], None]], Measurement]:
    return functools.partial(sweep.sweep, student)


ROWS = {
    "input_pipeline": Row("random views, one core", parts.input_pipeline, 10, 12),
    "teacher_forward": Row("teacher ResNet18, forward", parts.teacher_forward, 4.5, 5.9, cuda=(None, None)),
    "kd_step_mobilenetv2": Row("KD step, ResNet18 to MobileNetV2", _step("mobilenetv2"), 2.5, 3.5, cuda=(5, 8)),
    "kd_step_resnet18": Row("KD step, ResNet18 to ResNet18", _step("resnet18"), 3.5, 4.5, cuda=(None, None)),
    "sweep_mobilenetv2": Row("8 temperatures, MobileNetV2", _sweep("mobilenetv2"), 3.3, 5, cuda=(10, 20)),
    "sweep_resnet18": Row("8 temperatures, ResNet18", _sweep("resnet18"), 4.3, 6, cuda=(10, 20)),
    "soft_labels": Row("soft labels of Tf-KD_reg", parts.soft_labels, 50, 68, cuda=(None, None)),
    "peak_memory": Row(
        "memory beside networks and activations",
        memory.peak_memory,
        memory.DATASET_BYTES + memory.ALLOWANCE_BYTES,
        None,
        unit=BYTES,
    ),
}
