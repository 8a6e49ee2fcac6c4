"""The machine that computes the figures."""

from __future__ import annotations

import datetime
import os
import platform
from typing import Any

import torch

from kdrun.experiment.environment import cpu_flags, cpu_name, num_cores


def machine(device: torch.device) -> dict[str, Any]:
    """Date, CPU model, cores, threads, support of bf16, libraries, load, and the GPU if one is used.

    `load` is the load average of the last minute.
    """
    flags = cpu_flags()
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "amx": "amx_bf16" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def in_words(facts: dict[str, Any]) -> str:
    """A machine in one line."""
    bf16 = "AMX" if facts["amx"] else "no AMX" + (", AVX-512 bf16" if facts["avx512_bf16"] else "")
    gpu = f"{facts['gpu']}; " if facts["gpu"] else ""
    counts = [f"{facts[name]} {name if facts[name] != 1 else name[:-1]}" for name in ("cores", "threads")]
    return f"{gpu}{facts['cpu']} ({bf16}), {', '.join(counts)}, torch {facts['torch']}"
