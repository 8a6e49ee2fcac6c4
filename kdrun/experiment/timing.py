"""Times networks on random examples, within a number of seconds for all of them; nothing is written."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.experiment.build import build_student, uncompiled
from kdrun.experiment.sizes import Size, size_of
from kdrun.experiment.speeds import Network, Speed
from kdrun.spec.dataset import DatasetSpec, SequenceDatasetSpec
from kdrun.spec.spec import Component
from kdrun.training.precision import autocast, on_device, synchronize

MOST_MACS = 4e9
MOST_EXAMPLES = 1024
"""Limits of a timed batch on a CPU, where time grows with the examples; on a GPU the whole batch is timed."""

FORWARD_PASSES = 8
"""Of timing a network: a step and an evaluation to warm up, and one of each to time; a step counts as 3."""

LONG_SECONDS = 0.5

CAUTION = 3.0
"""Factor by which a network is expected to be slower than a convolution."""

SECONDS_PER_MODULE = 2e-3
"""To build a module and to call it that often, whatever its size."""

MACS_PER_PARAMETER = 50
"""The time to initialise a parameter, in MACs."""


@dataclass(frozen=True)
class Trial:
    """A network that is to be timed.

    Attributes:
        network: the key of its speed.
        component: the network.
        data: its dataset.
        batch_size: of its recipe.
        threads: of the CPU.
    """

    network: Network
    component: Component
    data: DatasetSpec
    batch_size: int
    threads: int

    @property
    def size(self) -> Size:
        return size_of(self.component, self.data)


def time_networks(trials: Sequence[Trial], device: torch.device, *, seconds: float) -> tuple[list[Speed | None], Speed]:
    """The speeds of networks, one of each family first.

    A convolution is timed first; its speed decides which networks can be timed in the rest of the time.

    Returns:
        For each network its speed, None where it would have taken too long; and the convolution's.
    """
    with uncompiled(trial.component for trial in trials):
        return _time_networks(trials, device, seconds)


def _time_networks(trials: Sequence[Trial], device: torch.device, seconds: float) -> tuple[list[Speed | None], Speed]:
    torch.zeros(1, device=device)  # to start a device is no timing
    synchronize(device)
    deadline = time.perf_counter() + seconds
    with _threads(trials[0].threads):
        convolution = _time_convolution(trials[0].network.precision, device)
    speeds: list[Speed | None] = [None] * len(trials)
    for done, position in enumerate(_by_turns(trials)):
        trial, left = trials[position], deadline - time.perf_counter()
        batch_size = _affordable(trial, convolution, left, left / (len(trials) - done), device)
        if batch_size:
            with _threads(trial.threads):
                speeds[position] = _time_network(trial, batch_size, device)
    return speeds, convolution


def _by_turns(trials: Sequence[Trial]) -> list[int]:
    """The positions of the trials, the first of each family before the second ones."""
    seen: Counter[str] = Counter()
    turns = []
    for position, trial in enumerate(trials):
        turns.append((seen[trial.network.family], position))
        seen[trial.network.family] += 1
    return [position for _, position in sorted(turns)]


def _affordable(trial: Trial, convolution: Speed, left: float, share: float, device: torch.device) -> int:
    """The number of examples to time: as many as fit into the network's share, at least 2; 0 without the time for 2.

    Args:
        trial: the network.
        convolution: the expected speed is this, divided by `CAUTION`.
        left: seconds.
        share: of the network, in seconds.
        device: where.
    """
    size, rate = trial.size, convolution.evaluation
    fixed = SECONDS_PER_MODULE * size.modules + MACS_PER_PARAMETER * size.params / rate
    each = CAUTION * FORWARD_PASSES * max(1, size.macs) / rate
    most = trial.batch_size
    if device.type == "cpu":
        most = max(2, min(most, MOST_EXAMPLES, int(MOST_MACS / max(1, size.macs))))
    else:
        share = left
    wanted = max(2, min(most, int((share - fixed) / each)))
    return wanted if fixed + wanted * each <= left else 0


def _time_network(trial: Trial, batch_size: int, device: torch.device) -> Speed:
    model = on_device(build_student(trial.component, trial.data), device)
    x, y = random_examples(trial.data, batch_size, device)
    return _timed(trial.network, model, x, y)


def random_examples(data: DatasetSpec, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise of the kind of a dataset's examples, and random labels: x `[N, *shape]`, y `[N]`, or `[N * L]`."""
    if isinstance(data, SequenceDatasetSpec):
        x = torch.randint(1, data.num_tokens, (size, *data.shape), device=device)
    else:
        x = torch.randn(size, *data.shape, device=device).to(memory_format=torch.channels_last)
    return x, torch.randint(len(data.outputs), (size * data.labels_each,), device=device)


def _time_convolution(precision: str, device: torch.device) -> Speed:
    """The speed of a 3x3 convolution with 64 channels on 16x16 pixels, an ordinary layer."""
    layer = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    model = on_device(nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()), device)
    x = torch.randn(8 if device.type == "cpu" else 256, 64, 16, 16, device=device)
    x = x.to(memory_format=torch.channels_last)
    y = torch.randint(64, (len(x),), device=device)
    return _timed(Network("convolution", "", 9 * 64 * 64 * 16 * 16, precision), model, x, y)


def _timed(network: Network, model: nn.Module, x: Tensor, y: Tensor) -> Speed:
    """The speed of training steps and evaluation on one batch, each after one that warms up.

    The optimiser's update is left out: it takes as long for a few examples as for a whole batch.
    """
    context: AbstractContextManager[None] = autocast(x.device, network.precision)

    def step() -> None:
        with context:
            loss = F.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()

    @torch.no_grad()
    def evaluate() -> None:
        with context:
            model(x)

    model.train()
    training = _seconds(step, x.device)
    model.eval()
    return network.speed(len(x) / training, len(x) / _seconds(evaluate, x.device))


def _seconds(function: Callable[[], None], device: torch.device) -> float:
    """What a call takes after one that warms up; that one's time where it is long."""
    for _ in range(2):
        started = time.perf_counter()
        function()
        synchronize(device)
        seconds = time.perf_counter() - started
        if seconds > LONG_SECONDS:
            break
    return seconds


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """At most one thread for each core: more would wait for each other for many seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)
