"""Rows for a whole sweep: eight temperatures, from specs to results on disk, with an existing teacher."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import ours, reference, task
from benchmarks.released import Released, TwoLines
from benchmarks.steps import PRECISIONS
from benchmarks.timing import Measurement, Progress, Times, num_threads, seconds_of
from benchmarks.worker import torchdistill
from kdrun.spec.spec import Spec

TEMPERATURES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0)
STEPS = {"cpu": 6, "cuda": 400}


def sweep(name: str, device: torch.device, progress: Progress) -> Measurement:
    """A sweep of kdrun against eight times a reference's run with the same steps and evaluation.

    One run of each reference precedes kdrun's sweeps and one follows; both ratios are to the same sweep.
    """
    pair, number = task.PAIRS[name], STEPS[device.type]
    images = task.image_sets(number * task.BATCH_SIZE, reference.TEST_SIZE)
    times = Times()
    with torchdistill(name, device, steps=number) as request, num_threads(torch.get_num_threads()):
        references: dict[str, Callable[[], object]] = {
            "released": lambda: reference.run(Released, pair, images, device),
            "two_lines": lambda: reference.run(TwoLines, pair, images, device),
            "torchdistill": lambda: request("run"),
        }

        def time_references() -> None:
            for side, run in references.items():
                progress(f"one run of {side}")
                if side not in times.skipped:
                    with times.skipping(side):
                        seconds = seconds_of(run, device)
                        times.seconds.setdefault(side, []).append(len(TEMPERATURES) * seconds)

        progress("preparations")
        for loop in (Released, TwoLines):
            reference.warm_up(loop, pair, device)
        with times.skipping("torchdistill"):
            request("prepare")
        time_references()
        for precision in PRECISIONS:
            progress(f"{len(TEMPERATURES)} temperatures with kdrun, {precision}")
            times.seconds[precision] = 2 * [_sweep_seconds(pair, precision, number, device)]
        time_references()
    num_images = len(TEMPERATURES) * number * task.BATCH_SIZE
    return Measurement(times, num_images, remark=f"{number} steps a run; references: {len(TEMPERATURES)} x one run")


def _sweep_seconds(pair: task.Pair, precision: str, num_steps: int, device: torch.device) -> float:
    threads = torch.get_num_threads()
    specs = sweep_specs(pair, precision, num_steps)
    with tempfile.TemporaryDirectory() as directory:
        ours.execute(specs[0].teachers, Path(directory), device, threads=threads)
        return seconds_of(lambda: ours.execute(specs, Path(directory), device, threads=threads), device)


def sweep_specs(pair: task.Pair, precision: str, num_steps: int) -> list[Spec]:
    """One-epoch runs, one per temperature, with the same untrained teacher."""
    data = task.dataset(num_steps * task.BATCH_SIZE, reference.TEST_SIZE)
    return [task.kd_spec(pair, data, precision=precision, temperature=temperature) for temperature in TEMPERATURES]
