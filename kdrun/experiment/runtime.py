"""Where and how runs are computed: nothing here is part of a run's identity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Runtime:
    """What all the runs of a command share.

    Attributes:
        device: where to compute.
        data_root: where datasets lie or are downloaded to.
        output_root: where runs, sweeps, tables and recorded logits are written.
        threads: CPU threads to compute with; None chooses by the size of a step.
        sweep: `lockstep` trains runs that share their views and their teacher together, `one_by_one` each alone.
        compile: `torch.compile` of the student: off, auto or on.
        cuda_graphs: capture of whole steps on CUDA: off, auto or on.
        conv_plan: faster algorithms for convolutions' gradients on the CPU in bf16, found by timing: off or auto.
        replay_gb: how many gigabytes (10^9 bytes) of teachers' logits are kept for later runs; 0 keeps none.
    """

    device: torch.device
    data_root: Path
    output_root: Path
    threads: int | None = None
    sweep: str = "lockstep"
    compile: str = "auto"
    cuda_graphs: str = "auto"
    conv_plan: str = "auto"
    replay_gb: float = 10.0
