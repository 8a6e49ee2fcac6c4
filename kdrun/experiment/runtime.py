"""Where and how runs are computed; not part of a run's identity."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import torch

from kdrun.training.precision import resolve_device

MOST_THREADS = 1024
MOST_WORKERS = 1024


@dataclass(frozen=True, kw_only=True)
class Computation:
    """How runs are computed.

    Attributes:
        threads: CPU threads, from 1 to `MOST_THREADS`; None takes all, or one where a step is too small to share.
        sweep: `lockstep` trains runs that share their views and their teacher together, `one_by_one` each alone.
        compile: `torch.compile` of the student: off, auto or on.
        cuda_graphs: capture of whole steps on CUDA: off, auto or on.
        workers: processes that read images where these are streamed, 0 to `MOST_WORKERS`; 0 is the run's own process,
            None is `kdrun.data.default_processes`.
        replay_gb: how many gigabytes (10^9 bytes) of teachers' logits are kept for later runs; 0 keeps none.
        keep: what a finished run keeps of its training: `weights` alone, or `all`, its checkpoints too.

    Raises:
        ValueError: with a line for each number that is not allowed.
    """

    threads: int | None = None
    sweep: Literal["lockstep", "one_by_one"] = "lockstep"
    compile: Literal["off", "auto", "on"] = "auto"
    cuda_graphs: Literal["off", "auto", "on"] = "auto"
    workers: int | None = None
    replay_gb: float = 10.0
    keep: Literal["weights", "all"] = "weights"

    def __post_init__(self) -> None:
        problems = []
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            problems.append(f"threads={self.threads}: must be null, or from 1 to {MOST_THREADS}")
        if self.workers is not None and not 0 <= self.workers <= MOST_WORKERS:
            problems.append(f"workers={self.workers}: must be null, or from 0 to {MOST_WORKERS}")
        if not 0 <= self.replay_gb < math.inf:
            problems.append(f"replay_gb={self.replay_gb}: must be a finite number of gigabytes, at least 0")
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True, kw_only=True)
class Runtime(Computation):
    """The settings that all runs of a command share.

    Attributes:
        device: of the computation; the first of `devices`, if there are any.
        devices: on which the runs of a command are executed side by side; empty is one after the other on `device`.
        data_root: directory of datasets, also of downloads.
        output_root: directory of runs, sweeps, tables and recorded logits.
        places: options of the dataset's loader that say where the data is, beside `data_root`, by name.
        resident: whether encoded images are decoded into memory; `auto` where they fit.
        auto_device: whether the device was left to the rule (`resolve_device`).
        auto_precision: whether the runs' precision was left to the rule (`resolve_precision`).
    """

    device: torch.device
    data_root: Path
    output_root: Path
    devices: tuple[torch.device, ...] = ()
    places: tuple[tuple[str, str | None], ...] = ()
    resident: bool | Literal["auto"] = "auto"
    auto_device: bool = field(default=False, compare=False)
    auto_precision: bool = field(default=False, compare=False)

    def here(self) -> Self:
        """These settings on the machine of this process, which may have another device."""
        return dataclasses.replace(self, device=resolve_device("auto")) if self.auto_device else self
