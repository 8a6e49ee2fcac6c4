"""The rows of the benchmark by name, with their gates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from benchmarks import parts, steps, sweep
from benchmarks.timing import Measurement, Progress

Gates = Mapping[tuple[str, str], float]
"""Required ratios, by reference and kdrun's precision."""


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        title: in a few words.
        measure: measures on a device, reporting progress by its second argument.
        cpu: gates on a CPU.
        cuda: gates on a CUDA device.
        is_part: a part of a step; its ratio says little about a run.
    """

    title: str
    measure: Callable[[torch.device, Progress], Measurement]
    cpu: Gates = field(default_factory=dict)
    cuda: Gates = field(default_factory=dict)
    is_part: bool = False

    def gates(self, device: torch.device) -> Gates:
        """The gates on a device."""
        return self.cuda if device.type == "cuda" else self.cpu


def _step(name: str) -> Callable[[torch.device, Progress], Measurement]:
    return functools.partial(steps.kd_step, name)


def _sweep(name: str) -> Callable[[torch.device, Progress], Measurement]:
    return functools.partial(sweep.sweep, name)


_VIEWS = {("released", "fp32"): 10.0}
_SWEEP = {("two_lines", "bf16"): 2.5}
_SWEEP_CUDA = {("released", "bf16"): 10.0}

ROWS = {
    "kd_step_mobilenetv2": Row(
        "KD step, ResNet18 to MobileNetV2",
        _step("mobilenetv2"),
        cpu={("released", "fp32"): 1.15, ("two_lines", "bf16"): 1.6},
        cuda={("released", "bf16"): 5.0},
    ),
    "kd_step_resnet18": Row(
        "KD step, ResNet18 to ResNet18",
        _step("resnet18"),
        cpu={("released", "fp32"): 1.15, ("two_lines", "bf16"): 1.4},
    ),
    "kd_step_resnet20": Row("KD step, resnet56 to resnet20", functools.partial(steps.mdistiller_step, "resnet20")),
    "sweep_mobilenetv2": Row("8 temperatures, MobileNetV2", _sweep("mobilenetv2"), cpu=_SWEEP, cuda=_SWEEP_CUDA),
    "sweep_resnet18": Row("8 temperatures, ResNet18", _sweep("resnet18"), cpu=_SWEEP, cuda=_SWEEP_CUDA),
    "input_pipeline": Row("random views, one core", parts.input_pipeline, cpu=_VIEWS, cuda=_VIEWS, is_part=True),
    "soft_labels": Row("soft labels of Tf-KD_reg", parts.soft_labels, cpu={("released", "fp32"): 50.0}, is_part=True),
}
