"""The machine and the software that a result was computed with."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from kdrun.spec.own_code import PACKAGES


def environment(device: torch.device) -> dict[str, Any]:
    """Libraries, device, threads, and the commit of kdrun's own checkout where it runs from one."""
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "git": _git_commit(),
        "platform": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that matter; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory: allocated on a CUDA device since the last reset, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: torch.device) -> None:
    """Resets a CUDA device's peak memory, so that each group of a sweep has its figure."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free_memory(device: torch.device) -> None:
    """Frees what nothing refers to any more; called after failures."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def device_name(device: torch.device) -> str:
    """The device's name in results."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()})"


def cuda_versions(device: torch.device) -> list[str]:
    """The device's compute capability, and the versions of CUDA's runtime, its driver (as 13000) and cuDNN."""
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    driver = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
    return [capability, str(torch.version.cuda), str(driver), str(torch.backends.cudnn.version())]


def cpu_facts() -> dict[str, str]:
    """What Linux reports about the first CPU, by name (`/proc/cpuinfo`); elsewhere nothing."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    pairs = [line.partition(":") for line in path.read_text().split("\n\n")[0].splitlines()]
    return {name.strip(): value.strip() for name, _, value in pairs}


def cpu_flags() -> set[str]:
    """The CPU's instruction sets, as Linux names them; elsewhere none."""
    return set(cpu_facts().get("flags", "").split())


def cpu_name() -> str:
    """The model of the CPU, as far as the operating system names it."""
    return cpu_facts().get("model name") or platform.processor() or platform.machine()


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git_commit() -> str | None:
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    commands = {
        "commit": ["git", "-C", str(checkout), "rev-parse", "HEAD"],
        "changes": ["git", "-C", str(checkout), "status", "--porcelain", "--untracked-files=no"],
    }
    try:
        printed = {
            name: subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for name, command in commands.items()
        }
    except (OSError, subprocess.SubprocessError):
        return None
    return printed["commit"] + ("+changes" if printed["changes"] else "")
