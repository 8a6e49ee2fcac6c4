"""Rows for a whole sweep: eight temperatures, from specs to results on disk, with an existing teacher."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import ours, task
from benchmarks.measurement import Measurement, compared
from benchmarks.reference import Reference, num_workers, test_loader, training_loader
from benchmarks.steps import choose_precision
from benchmarks.timing import Comparison, num_threads
from kdrun.data import ImageSet
from kdrun.spec.spec import Spec
from kdrun.training.precision import synchronize

TEMPERATURES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0)
STEPS = {"cpu": 12, "cuda": 400}
TEST_SIZE = 256


def sweep(student: str, device: torch.device, progress: Callable[[str], None]) -> Measurement:
    """A sweep of kdrun against eight times the reference's run with the same steps and evaluation.

    One run of the reference precedes the sweep and one follows; both ratios are to the same sweep.
    """
    progress("fp32 or bf16")
    precision = choose_precision(student, device).precision
    num_steps = STEPS[device.type]
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as directory, num_threads(threads):
        specs = sweep_specs(student, precision, num_steps)
        ours.execute(specs[0].teachers, Path(directory), device, threads=threads)
        progress("reference, run 1 of 2")
        before = _reference_run(student, num_steps, device)
        progress(f"{len(specs)} temperatures with kdrun")
        started = time.perf_counter()
        ours.execute(specs, Path(directory), device, threads=threads)
        seconds = time.perf_counter() - started
        progress("reference, run 2 of 2")
        after = _reference_run(student, num_steps, device)
    times = Comparison((len(specs) * before, len(specs) * after), (seconds, seconds))
    return compared(times, images=None, remark=f"{precision}; {num_steps} steps a run; reference: 8 x one run")


def sweep_specs(student: str, precision: str, num_steps: int) -> list[Spec]:
    """One-epoch runs, one per temperature, with the same untrained teacher."""
    data = task.dataset(num_steps * task.BATCH_SIZE, TEST_SIZE)
    return [task.kd_spec(student, data, precision=precision, temperature=temperature) for temperature in TEMPERATURES]


def _reference_run(student: str, num_steps: int, device: torch.device) -> float:
    """Seconds of one whole run: networks, one epoch, evaluation, saving."""
    splits = task.random_images(
        task.NUM_CLASSES, task.CHANNELS, task.IMAGE_SIZE, num_steps * task.BATCH_SIZE, TEST_SIZE
    )
    assert isinstance(splits.train, ImageSet)
    assert isinstance(splits.test, ImageSet)
    synchronize(device)
    started = time.perf_counter()
    loop = Reference(
        task.build_network(student, "student"),
        task.build_network(task.TEACHER, "teacher"),
        alpha=task.ALPHA[student],
        device=device,
    )
    for _ in loop.epoch(training_loader(splits.train, workers=num_workers())):
        pass
    loop.evaluate(test_loader(splits.test, workers=num_workers()))
    with tempfile.TemporaryFile() as file:
        torch.save(loop.state_dict(), file)
    return time.perf_counter() - started
