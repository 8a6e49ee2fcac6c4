"""Automatic choices of how a run computes: made once, kept with the run, and used again when it resumes.

They change the last bits of a result, so a run alone and the same run in a sweep must not choose differently: they
follow from the spec and the machine by rule. Only the plan of the convolutions is timed, and it is kept for the
machine, so that all its runs have the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from kdrun.experiment.build import build_student, needs_of
from kdrun.experiment.runtime import Runtime
from kdrun.experiment.sizes import macs_per_example
from kdrun.files import expanded
from kdrun.log import log
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Spec
from kdrun.store.run import Run
from kdrun.training.convolution import NATIVE
from kdrun.training.convolution_tuning import load_known, save_known, tune

MIN_STEPS_TO_CAPTURE = 200
"""A capture takes about as long as so many steps of a small network."""

COMPILE_SECONDS = 60.0
"""What torch.compile takes for a student."""

COMPILE_GAIN = 0.2
"""The share of a captured step that compiling saves on CUDA: an estimate, from what others report (1.24 times)."""

CUDA_MACS_PER_SECOND = 1.5e14
CUDA_STEP_SECONDS = 1e-3
"""What a step takes on CUDA at least, and what it computes in a second beyond that: estimates."""


@dataclass(frozen=True)
class Choices:
    """How a run computes.

    Attributes:
        threads: on the CPU.
        compile: whether the student is compiled.
        cuda_graphs: whether steps are captured and replayed.
        conv_plan: algorithms of convolutions' gradients by shape, other than the native ones; see
            `kdrun.training.convolution`.
    """

    threads: int
    compile: bool = False
    cuda_graphs: bool = False
    conv_plan: Mapping[str, str] = field(default_factory=dict)


def recorded_choices(run: Run) -> Choices | None:
    """What a run began with; None where it was never begun."""
    recorded = run.choices()
    return None if recorded is None else Choices(**recorded)


def choose(spec: Spec, runtime: Runtime) -> Choices:
    """What a run begins with, with the number of CPU threads that is set."""
    steps = spec.epochs_trained * math.ceil(spec.dataset.num_train_examples / spec.recipe.batch_size)
    return Choices(
        threads=torch.get_num_threads(),
        compile=runtime.compile == "on" or (runtime.compile == "auto" and compiling_pays(spec, runtime.device, steps)),
        cuda_graphs=runtime.device.type == "cuda"
        and (runtime.cuda_graphs == "on" or (runtime.cuda_graphs == "auto" and steps >= MIN_STEPS_TO_CAPTURE)),
        conv_plan=_conv_plan(spec, spec.dataset)
        if isinstance(spec.dataset, ImageDatasetSpec) and _can_plan(spec, runtime) and steps
        else {},
    )


def compiling_pays(spec: Spec, device: torch.device, steps: int) -> bool:
    """Whether so many steps win back the time of compiling.

    On a CPU never: there the convolutions take the time, and compiled steps were measured 1.0 to 1.1 times as fast as
    others (docs/performance.md).
    """
    if device.type != "cuda":
        return False
    rows = needs_of(spec).views * spec.recipe.batch_size
    macs = 3 * macs_per_example(spec.student, spec.dataset) * rows  # forward, and two gradients of the same size
    return steps * COMPILE_GAIN * (CUDA_STEP_SECONDS + macs / CUDA_MACS_PER_SECOND) > COMPILE_SECONDS


def _can_plan(spec: Spec, runtime: Runtime) -> bool:
    return runtime.conv_plan == "auto" and runtime.device.type == "cpu" and spec.precision == "bf16"


def _conv_plan(spec: Spec, data: ImageDatasetSpec) -> dict[str, str]:
    """The plan of a student's convolutions; what this machine does not know yet is timed, some seconds a network."""
    known: dict[str, str] = {}
    directory = None
    try:
        directory = cache_home() / "conv_plan"
        known = load_known(directory)
    except OSError as error:
        log.warning("what is known about convolutions cannot be read, they are timed again: %s", error)
    with torch.device("meta"):
        student = build_student(spec.student, data)
    plan = tune(student, (spec.recipe.batch_size, data.in_channels, *2 * (data.image_size,)), known=known)
    if directory is not None and not plan.keys() <= known.keys():
        log.info("timed the convolutions of %s in bf16, once for this machine (%s)", spec.student.name, directory)
        try:
            save_known(directory, known | plan)
        except OSError as error:
            log.warning("what was found about convolutions is not kept for other runs: %s", error)
    return {shape: algorithm for shape, algorithm in plan.items() if algorithm != NATIVE}


def cache_home() -> Path:
    """Where kdrun keeps what it learns about the machine.

    Raises:
        FileNotFoundError: there is no home directory.
    """
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "kdrun"
