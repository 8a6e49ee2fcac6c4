"""The memory row: a run's peak memory without its networks, optimiser and activations.

Two separate processes: a whole run on the number of images of CIFAR-100, and the same networks alone, trained for some
steps and evaluated on one batch. The difference of their peaks is the memory of the images and of kdrun.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import ours, task
from benchmarks.measurement import Measurement
from kdrun.experiment.build import build_student
from kdrun.experiment.environment import peak_memory_bytes
from kdrun.losses import kd_loss
from kdrun.spec.spec import Component, Spec
from kdrun.training.evaluation import BATCH_SIZE as EVALUATION_BATCH
from kdrun.training.optimisation import build_optimizer
from kdrun.training.precision import on_device

DATASET_BYTES = (task.TRAIN_SIZE + task.TEST_SIZE) * task.IMAGE_SIZE**2 * task.CHANNELS
ALLOWANCE_BYTES = 200_000_000
PAIRS = 3
NETWORK = Component("kdrun.models.mlp", {"hidden": (256,)})
"""Small, so that an epoch takes seconds and the network adds little to a peak."""


def peak_memory(device: torch.device, progress: Callable[[str], None]) -> Measurement:
    """Bytes of a run besides networks, optimiser and activations, once per pair of processes."""
    beside, runs = [], []
    for pair in range(PAIRS):
        progress(f"run {pair + 1} of {PAIRS}")
        runs.append(_peak_of_process("run", device))
        beside.append(runs[-1] - _peak_of_process("bare", device))
    return Measurement(
        ratio=statistics.median(beside),
        low=min(beside),
        high=max(beside),
        reference="",
        kdrun=f"{statistics.median(runs) / 1e6:.0f} MB in all",
        remark=f"of these the images, once: {DATASET_BYTES / 1e6:.0f} MB",
    )


def _peak_of_process(what: str, device: torch.device) -> int:
    """Peak bytes of `run` or `bare` in a separate process."""
    command = [sys.executable, "-m", "benchmarks.memory", what, str(device)]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def run_peak(device: torch.device) -> int:
    """Peak bytes of this process after a whole distillation run, including teacher and evaluation."""
    dataset = task.dataset(task.TRAIN_SIZE, task.TEST_SIZE)
    teacher = Spec(dataset, NETWORK, task.UNTAUGHT, task.RECIPE, stop_epoch=0)
    student = Spec(dataset, NETWORK, Component("kdrun.methods.KD"), task.RECIPE, teachers=(teacher,))
    with tempfile.TemporaryDirectory() as directory:
        ours.execute([student], Path(directory), device)
    return _peak(device)


def bare_peak(device: torch.device) -> int:
    """Peak bytes of this process after some steps of the same networks on one batch, and an evaluation of another."""
    dataset = task.dataset(task.TRAIN_SIZE, task.TEST_SIZE)
    teacher = on_device(build_student(NETWORK, dataset), device).eval().requires_grad_(False)
    student = on_device(build_student(NETWORK, dataset), device)
    optimizer = build_optimizer("sgd", student.parameters(), lr=0.01, momentum=0.9, nesterov=False, weight_decay=5e-4)
    shape = (task.CHANNELS, task.IMAGE_SIZE, task.IMAGE_SIZE)
    images = torch.zeros(task.BATCH_SIZE, *shape, device=device)
    labels = torch.zeros(task.BATCH_SIZE, dtype=torch.int64, device=device)
    for _ in range(3):
        loss = kd_loss(student(images), teacher(images), labels, temperature=4.0, alpha=0.9)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        student.eval()(torch.zeros(EVALUATION_BATCH, *shape, device=device))
    return _peak(device)


def _peak(device: torch.device) -> int:
    """Peak bytes of this process; on Linux of this program alone, excluding the program that started it."""
    status = Path("/proc/self/status")
    if device.type == "cuda" or not status.exists():
        return peak_memory_bytes(device)
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    what, where = sys.argv[1:]
    print({"run": run_peak, "bare": bare_peak}[what](torch.device(where)))
