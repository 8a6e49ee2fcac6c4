"""How fast this machine trains and evaluates networks, as it was measured: small files in the user's cache.

Dry runs and notices read them, and nothing that is computed depends on them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kdrun.experiment.choices import cache_home
from kdrun.experiment.environment import cpu_name, device_name
from kdrun.experiment.sizes import size_of
from kdrun.files import DamagedError, read_record, sha256, write_record
from kdrun.log import log
from kdrun.models.cost import num_parameters
from kdrun.spec.components import resolve
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.spec import Component, Spec
from kdrun.training.trainer import Timing, Training

MIN_SECONDS = 1.0
"""Of training steps: what was measured for less is not kept."""

MOST_FILES = 1000
MOST_BYTES = 4096


@dataclass(frozen=True)
class Speed:
    """Of one network on one device, in one precision, with one number of CPU threads.

    Attributes:
        network: dotted path of its constructor.
        family: the module that it is from.
        macs: of a forward pass on one example; they differ with options and sizes of images.
        precision: `fp32` or `bf16`.
        training: MACs of the forward pass per second of training steps: examples per second times `macs`.
        evaluation: likewise of evaluation.
    """

    network: str
    family: str
    macs: int
    precision: str
    training: float
    evaluation: float

    def __post_init__(self) -> None:
        numbers = (self.macs, self.training, self.evaluation)
        if not all(type(text) is str for text in (self.network, self.family, self.precision)):
            raise ValueError("network, family and precision must be text")
        if not all(type(number) in (int, float) and 0 < number < math.inf for number in numbers):
            raise ValueError(f"macs, training, evaluation: {numbers}: must be finite numbers above 0")


@dataclass(frozen=True)
class Network:
    """The key of a speed: a network for its data, in a precision."""

    name: str
    family: str
    macs: int
    precision: str

    @classmethod
    def of(cls, spec: Spec, component: Component, dataset: DatasetSpec) -> Network:
        """A network on a dataset, in the precision of a run."""
        macs = size_of(component, dataset).macs
        return cls(component.target, resolve(component.target).__module__, max(1, macs), spec.precision)

    def is_of(self, speed: Speed) -> bool:
        """Whether a speed is this network's own."""
        return (speed.network, speed.macs, speed.precision) == (self.name, self.macs, self.precision)

    def is_related(self, speed: Speed, factor: float) -> bool:
        """Whether a speed is of the same precision and family, and of MACs within a factor of these."""
        same = (speed.family, speed.precision) == (self.family, self.precision)
        return same and 1 / factor <= speed.macs / self.macs <= factor

    def speed(self, training: float, evaluation: float) -> Speed:
        """Its speed, from the examples that it is trained and evaluated on in a second."""
        rates = (self.macs * training, self.macs * evaluation)
        return Speed(self.name, self.family, self.macs, self.precision, *rates)

    def nearest(self, speeds: Iterable[Speed]) -> Speed | None:
        """The best substitute for a speed of this network: same precision and family if possible, then nearest MACs."""
        return min(speeds, key=self._distance, default=None)

    def _distance(self, speed: Speed) -> tuple[bool, bool, float]:
        ratio = abs(math.log(speed.macs / self.macs))
        return (speed.precision != self.precision, speed.family != self.family, ratio)


def keep_speed(spec: Spec, training: Training, device: torch.device) -> None:
    """Keeps what a finished run measured, instead of what was kept of its network before.

    Left out: runs of less than `MIN_SECONDS`, and of methods that train more than the student or in two stages.
    """
    method, timings = training.method, training.timings
    if method.stage1_epochs or num_parameters(method) != num_parameters(method.delivered()):
        return
    steps, evaluations = _mean(timings.steps), _mean(timings.evaluations)
    if steps is None or evaluations is None or steps[0] < MIN_SECONDS:
        return
    network = Network.of(spec, spec.student, spec.dataset)
    speed = network.speed(steps[1] / spec.dataset.labels_each / steps[0], evaluations[1] / evaluations[0])
    write_speed(network, speed, device, torch.get_num_threads())


def write_speed(network: Network, speed: Speed, device: torch.device, threads: int) -> None:
    """Writes the file of a network's speed; that it cannot be written is a warning."""
    try:
        directory = _directory(device, threads)
        directory.mkdir(parents=True, exist_ok=True)
        write_record(directory / f"{sha256(repr(network).encode())[:16]}.json", asdict(speed))
    except OSError as error:
        log.warning("the speed of %s is not kept for later commands: %s", network.name.rpartition(".")[2], error)


def known_speeds(device: torch.device, threads: int) -> list[Speed]:
    """The speeds that finished runs kept for this device and number of threads; foreign files are a warning."""
    try:
        directory = _directory(device, threads)
        paths = sorted(directory.glob("*.json"))[:MOST_FILES]
    except OSError as error:
        log.warning("no speeds of earlier runs: %s", error)
        return []
    found, faults = [], []
    for path in paths:
        try:
            found.append(_read(path))
        except (OSError, DamagedError, TypeError, ValueError) as error:
            faults.append(f"{path}: not used: {' '.join(str(error).split())[:200]}")
    if faults:
        log.warning("%s%s", faults[0], f" (and {len(faults) - 1} more files)" if len(faults) > 1 else "")
    return found


def _read(path: Path) -> Speed:
    status = path.stat()
    if not path.is_file() or status.st_size > MOST_BYTES:
        raise ValueError(f"no file of at most {MOST_BYTES} bytes")
    return Speed(**read_record(path))


def _mean(timings: Sequence[Timing]) -> Timing | None:
    """Seconds and examples in all, without the first epoch if there are others: it warms up."""
    counted = timings[1:] or timings
    seconds, examples = sum(timing[0] for timing in counted), sum(timing[1] for timing in counted)
    return (seconds, examples) if seconds > 0 and examples else None


def _directory(device: torch.device, threads: int) -> Path:
    """Of this machine, library, device and number of threads."""
    place = {"cpu": cpu_name(), "torch": torch.__version__, "threads": threads, "device": device_name(device)}
    return cache_home() / "speeds" / sha256(json.dumps(place, sort_keys=True).encode())[:10]
