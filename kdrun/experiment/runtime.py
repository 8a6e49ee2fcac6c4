"""Where and how runs are computed: nothing here is part of a run's identity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

CHOICES = {
    "sweep": ("lockstep", "one_by_one"),
    "compile": ("off", "auto", "on"),
    "cuda_graphs": ("off", "auto", "on"),
    "conv_plan": ("off", "auto"),
}


@dataclass(frozen=True, kw_only=True)
class Computation:
    """How runs are computed.

    Attributes:
        threads: CPU threads; None takes all, or one where a step is too small to share.
        sweep: `lockstep` trains runs that share their views and their teacher together, `one_by_one` each alone.
        compile: `torch.compile` of the student: off, auto or on.
        cuda_graphs: capture of whole steps on CUDA: off, auto or on.
        conv_plan: faster algorithms for convolutions' gradients on the CPU in bf16, found by timing: off or auto.
        replay_gb: how many gigabytes (10^9 bytes) of teachers' logits are kept for later runs; 0 keeps none.

    Raises:
        ValueError: with a line for each value that is not allowed.
    """

    threads: int | None = None
    sweep: str = "lockstep"
    compile: str = "auto"
    cuda_graphs: str = "auto"
    conv_plan: str = "auto"
    replay_gb: float = 10.0

    def __post_init__(self) -> None:
        problems = []
        if self.threads is not None and self.threads < 1:
            problems.append(f"threads={self.threads}: must be null or at least 1")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                problems.append(f"{name}={getattr(self, name)!r}: must be one of {', '.join(allowed)}")
        if not 0 <= self.replay_gb < math.inf:
            problems.append(f"replay_gb={self.replay_gb}: must be a finite number of gigabytes, at least 0")
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True, kw_only=True)
class Runtime(Computation):
    """What all the runs of a command share.

    Attributes:
        device: where to compute.
        data_root: where datasets lie or are downloaded to.
        output_root: where runs, sweeps, tables and recorded logits are written.
    """

    device: torch.device
    data_root: Path
    output_root: Path
