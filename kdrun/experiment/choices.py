"""Automatic choices of how a run computes: made once, kept with the run, and used again when it resumes.

They change the last bits of a result, so a run alone and the same run in a sweep must not choose differently: they
follow from the spec and the machine by rule.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from kdrun.experiment.build import build_student, needs_of, without_data
from kdrun.experiment.runtime import Runtime
from kdrun.files import expanded
from kdrun.models.cost import saved_bytes
from kdrun.place import place
from kdrun.spec.spec import Spec
from kdrun.store.run import Run

MIN_STEPS_TO_CAPTURE = 200
"""A capture takes about as long as this number of steps of a small network."""

COMPILE_SECONDS = 40.0
"""Time of a student's compilation by torch.compile."""

LAUNCH_SECONDS = 2e-4
"""Estimated time that a captured step on CUDA spends on launching the kernels that compiling fuses into others."""

FUSED_TRAFFIC = 2.5
"""Bytes of memory traffic of a step in bf16 that fusing saves, per byte of activation (counted in fp32) that is kept
for backward: counted for the networks of Tf-KD it is 2.5 (MobileNetV2) to 4.2 (ResNet50) where all is fused."""


@dataclass(frozen=True)
class Choices:
    """How a run computes.

    Attributes:
        threads: on the CPU.
        compile: whether the student is compiled.
        cuda_graphs: whether steps are captured and replayed.
        small_maps_nchw: whether wide convolutions on small maps, the student's and the teacher's, are in NCHW memory
            (`use_nchw_on_small_maps`).
        ranks: processes that compute it together, in ordinary steps where there are several.
    """

    threads: int
    compile: bool = False
    cuda_graphs: bool = False
    small_maps_nchw: bool = False
    ranks: int = 1

    @property
    def has_fast_ways(self) -> bool:
        """Whether steps are computed in other ways than one operation after the other."""
        return self.compile or self.cuda_graphs

    @property
    def words(self) -> str:
        """The fast ways, for messages."""
        ways = {"compiled": self.compile, "captured": self.cuda_graphs}
        return " and ".join(way for way, is_used in ways.items() if is_used) + " steps"

    @property
    def ordinary(self) -> Choices:
        """The same without fast ways."""
        return dataclasses.replace(self, compile=False, cuda_graphs=False)


def recorded_choices(run: Run, *, to_train: bool = False) -> Choices | None:
    """The choices that a run began with; None where it was never begun.

    Raises:
        RuntimeError: its training is to continue, and an older kdrun began it with gradients that no longer exist.
    """
    recorded = run.choices()
    if recorded is None:
        return None
    if recorded.get("conv_plan") and to_train and not run.finished:
        raise RuntimeError(
            f"{run.directory}: began with runtime.conv_plan, which this version of kdrun does not have; "
            f"to train it from the start: kdrun rm {run.spec.run_id}"
        )
    return Choices(**{name: value for name, value in recorded.items() if name != "conv_plan"})


def choose(spec: Spec, runtime: Runtime) -> Choices:
    """What a run is to begin with, with the number of CPU threads that is set; fast ways are still to be proved."""
    if (ranks := place().ranks) > 1:
        return Choices(torch.get_num_threads(), small_maps_nchw=small_maps_in_nchw(spec, runtime.device), ranks=ranks)
    steps = spec.epochs_trained * math.ceil(spec.dataset.num_train_examples / spec.recipe.batch_size)
    return Choices(
        threads=torch.get_num_threads(),
        compile=runtime.compile == "on" or (runtime.compile == "auto" and compiling_pays(spec, runtime.device, steps)),
        cuda_graphs=runtime.device.type == "cuda"
        and (runtime.cuda_graphs == "on" or (runtime.cuda_graphs == "auto" and steps >= MIN_STEPS_TO_CAPTURE)),
        small_maps_nchw=small_maps_in_nchw(spec, runtime.device),
    )


def small_maps_in_nchw(spec: Spec, device: torch.device) -> bool:
    """Whether a new run computes wide convolutions on small maps in NCHW memory: in fp32 on a CPU."""
    return device.type == "cpu" and spec.precision == "fp32"


def compiling_pays(spec: Spec, device: torch.device, steps: int) -> bool:
    """Whether a number of steps wins back the time of compiling.

    Compiling fuses what is between the convolutions: it saves memory traffic and kernels, not products. On a CPU it
    never pays: there the convolutions take the time, and compiled steps were measured 1.0 to 1.1 times as fast as
    others (docs/performance.md).
    """
    if device.type != "cuda":
        return False
    rows = needs_of(spec).views * spec.recipe.batch_size
    data = spec.dataset
    with without_data():
        saved = FUSED_TRAFFIC * rows * saved_bytes(build_student(spec.student, data), data.shape, data.dtype)
    return steps * (LAUNCH_SECONDS + saved / bytes_per_second(device)) > COMPILE_SECONDS


def bytes_per_second(device: torch.device) -> float:
    """The bandwidth of a CUDA device's memory, by its data sheet: two transfers a clock."""
    facts = torch.cuda.get_device_properties(device)
    return 2 * 1e3 * facts.memory_clock_rate * facts.memory_bus_width / 8


def cache_home() -> Path:
    """Kdrun's directory in the user's cache.

    Raises:
        FileNotFoundError: there is no home directory.
    """
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "kdrun"
