"""A notice that a run in fp32 would be faster in bf16 on this CPU; nothing that is computed depends on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch

from kdrun.experiment.environment import cpu_flags
from kdrun.experiment.runtime import Runtime
from kdrun.experiment.sizes import size_of, threads_for
from kdrun.experiment.speeds import Network, Speed, known_speeds, write_speed
from kdrun.experiment.timing import Trial, time_networks
from kdrun.spec.spec import Spec

FLAGS = {"amx_bf16", "avx512_bf16"}
"""Of CPUs with instructions for bf16 (`/proc/cpuinfo`); without them bf16 is slower than fp32."""

LONG_SECONDS = 60.0
MIN_GAIN = 1.2
TIMING_SECONDS = 2.0

SLOW_MACS_PER_SECOND = 2e9
"""A low rate of training; a run that is short at this rate is not timed."""


def bf16_notice(specs: Iterable[Spec], runtime: Runtime) -> str | None:
    """How much faster the longest of these runs would be in bf16; None if unknown, below `MIN_GAIN`, or if it is short.

    Only for runs whose precision was not given. The speeds are recorded ones of finished runs of this network, else
    they are timed, for at most about `TIMING_SECONDS`, and recorded likewise. Random generators are left as they are.
    """
    if not runtime.auto_precision or runtime.device.type != "cpu" or not FLAGS & cpu_flags():
        return None
    spec = max((spec for spec in specs if spec.precision == "fp32"), key=_training_macs, default=None)
    if spec is None or _training_macs(spec) < LONG_SECONDS * SLOW_MACS_PER_SECOND:
        return None
    threads = runtime.threads or threads_for(spec, runtime.device, torch.get_num_threads())
    fp32, bf16 = _speeds(spec, runtime.device, threads)
    if fp32 is None or bf16 is None:
        return None
    gain = bf16.training / fp32.training
    if gain < MIN_GAIN or _training_macs(spec) / fp32.training < LONG_SECONDS:
        return None
    return (
        f"runtime.precision=bf16: {spec.student.name} would train about {gain:.1f} times as fast on this CPU, with "
        "another run id and other rounding"
    )


def _training_macs(spec: Spec) -> float:
    """MACs of the student's forward passes over the whole run, one view of each example."""
    return float(size_of(spec.student, spec.dataset).macs * spec.epochs_trained * spec.dataset.num_train_examples)


def _speeds(spec: Spec, device: torch.device, threads: int) -> list[Speed | None]:
    """The student's speeds in fp32 and bf16; None for one that would take too long to time."""
    fp32 = Network.of(spec, spec.student, spec.dataset)
    networks = [fp32, dataclasses.replace(fp32, precision="bf16")]
    known = known_speeds(device, threads)
    speeds = [next((speed for speed in known if network.is_of(speed)), None) for network in networks]
    if all(speeds):
        return speeds
    trials = [Trial(network, spec.student, spec.dataset, spec.recipe.micro_batch_size, threads) for network in networks]
    with torch.random.fork_rng(devices=[]):
        try:
            timed, _ = time_networks(trials, device, seconds=TIMING_SECONDS)
        except Exception:  # an operation that does not exist in bf16; in fp32 the run itself will report it
            return [None, None]
    for network, before, speed in zip(networks, speeds, timed, strict=True):
        if before is None and speed is not None:
            write_speed(network, speed, device, threads)
    return timed
