"""A run's peak memory without its networks, optimiser and activations: the images, once, and 200 MB at most.

Two processes: a whole run on the number of images of CIFAR-100, and the same networks alone, trained for some steps and
evaluated on one batch. The difference of their peaks is the memory of the images and of kdrun. As a program this module
prints the peak of one of them.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from benchmarks import ours, task
from kdrun.experiment.build import build_student
from kdrun.experiment.environment import peak_memory_bytes
from kdrun.losses import kd_loss
from kdrun.spec.spec import Component, Spec
from kdrun.training.evaluation import BATCH_SIZE as EVALUATION_BATCH
from kdrun.training.optimisation import build_optimizer
from kdrun.training.precision import on_device

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
DATASET_BYTES = (task.TRAIN_SIZE + task.TEST_SIZE) * task.IMAGE_SIZE**2 * task.CHANNELS
NETWORK = Component("kdrun.models.mlp", {"hidden": (256,)})
"""Small, so that an epoch takes seconds and the network adds little to a peak."""


def run() -> None:
    """A whole distillation run, including teacher and evaluation."""
    data, recipe = task.dataset(task.TRAIN_SIZE, task.TEST_SIZE), task.PAIRS["resnet18"].recipe
    teacher = Spec(data, NETWORK, Component("kdrun.methods.CE"), recipe, stop_epoch=0)
    student = Spec(data, NETWORK, Component("kdrun.methods.KD"), recipe, teachers=(teacher,))
    with tempfile.TemporaryDirectory() as directory:
        ours.execute([student], Path(directory), CPU)


def networks() -> None:
    """Some steps of the same networks on one batch, and an evaluation of another."""
    data = task.dataset(task.TRAIN_SIZE, task.TEST_SIZE)
    teacher = on_device(build_student(NETWORK, data), CPU).eval().requires_grad_(False)
    student = on_device(build_student(NETWORK, data), CPU)
    optimizer = build_optimizer("sgd", student.parameters(), lr=0.01, momentum=0.9, nesterov=False, weight_decay=5e-4)
    shape = (task.CHANNELS, task.IMAGE_SIZE, task.IMAGE_SIZE)
    images, labels = torch.zeros(task.BATCH_SIZE, *shape), torch.zeros(task.BATCH_SIZE, dtype=torch.int64)
    for _ in range(3):
        loss = kd_loss(student(images), teacher(images), labels, temperature=4.0, alpha=0.9)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        student.eval()(torch.zeros(EVALUATION_BATCH, *shape))


def own_peak() -> int:
    """Peak bytes of this process; on Linux of this program alone, excluding the program that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_memory_bytes(CPU)
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def peak_of_process(what: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KDRUN_TRUST": "benchmarks"}
    words = [sys.executable, __file__, what]
    return int(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout)


@pytest.mark.slow
def test_a_run_takes_little_memory_beside_its_images_and_networks():
    assert DATASET_BYTES < peak_of_process("run") - peak_of_process("networks") < DATASET_BYTES + 200e6


@pytest.mark.slow
def test_a_process_tells_its_own_peak_and_not_that_of_its_parent():
    """On Linux a child's `ru_maxrss` begins at what its parent took when it was started."""
    before = peak_of_process("networks")
    ballast = torch.ones(750_000_000, dtype=torch.uint8)
    after = peak_of_process("networks")
    assert len(ballast) > 2 * abs(after - before)
    assert 100e6 < before < 3e9


if __name__ == "__main__":
    {"run": run, "networks": networks}[sys.argv[1]]()
    print(own_peak())
