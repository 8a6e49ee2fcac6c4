"""The machine, its libraries and its directories, as plain values for tables and JSON; nothing is left on disk."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kdrun import __version__, redaction
from kdrun.data.loaders import cifar, mnist, tiny_imagenet
from kdrun.diagnosis.file_system import features
from kdrun.experiment.environment import cpu_flags, cpu_name, environment, num_cores, versions
from kdrun.experiment.proof import kept_proofs
from kdrun.experiment.runtime import Runtime
from kdrun.memory import free_bytes
from kdrun.training.precision import has_bf16

DIRECTORIES = {
    "cifar10": cifar.CIFAR10.archive.directory,
    "cifar100": cifar.CIFAR100.archive.directory,
    "fashion_mnist": mnist.FASHION_MNIST.directory,
    "mnist": mnist.MNIST.directory,
    "tiny_imagenet": tiny_imagenet.ARCHIVE.directory,
}
"""Where each dataset that is downloaded is stored, below the data root."""

PREFIXES = ("KDRUN_", "CUDA_", "CUBLAS_", "NVIDIA_", "PYTORCH_", "TORCH", "TRITON_", "OMP_", "MKL_", "KMP_", "MALLOC_")
NAMES = ("CC", "CXX", "XDG_CACHE_HOME", "LD_PRELOAD", "WORLD_SIZE", "TMPDIR")
"""Environment variables that change what is computed, where, or how fast; `PREFIXES` begin the names of others."""


def facts(runtime: Runtime, words: Sequence[str], variables: Mapping[str, str]) -> dict[str, Any]:
    """Everything about the machine that matters to a bug report, by subject.

    Args:
        runtime: its device and directories are described.
        words: of the command line, behind the verb.
        variables: of the environment.
    """
    recorded, libraries, proofs = environment(runtime.device), versions(), kept_proofs()
    return {
        "command": ["kdrun", "doctor", *words],
        "kdrun": {
            "version": libraries.pop("kdrun", __version__),
            "commit": recorded["git"],
            "path": str(Path(__file__).parents[2]),
        },
        "device": {"chosen": str(runtime.device), "name": recorded["device"], **_precision(runtime.device)},
        "cpu": {
            "name": cpu_name(),
            "cores": num_cores(),
            "threads": recorded["threads"],
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
        "cuda": _cuda(runtime.device),
        "memory": {"total_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "free_bytes": free_bytes()},
        "compiler": {
            "c": _compiler("CC", ("cc", "gcc", "clang")),
            "c++": _compiler("CXX", ("g++", "clang++")),
            "triton": _version("triton"),
        },
        "data": _data(runtime.data_root),
        "output": features(runtime.output_root),
        "proofs": {
            "agree": sum(proof.agrees for proof in proofs),
            "refused": [proof.reason for proof in proofs if not proof.agrees],
        },
        "libraries": libraries,
        "system": {"platform": recorded["platform"], "executable": sys.executable},
        "environment": dict(variables),
    }


def _precision(device: torch.device) -> dict[str, str]:
    """Whether the device has instructions for bf16 or emulates it, and which."""
    if device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return {"bf16": "native" if has_bf16(device) else "emulated", "by": f"compute capability {capability}"}
    if device.type == "mps":
        return {"bf16": "unknown", "by": ""}
    names = {"AMX": "amx_bf16", "AVX-512 BF16": "avx512_bf16"}
    units = [name for name, flag in names.items() if flag in cpu_flags()]
    return {"bf16": "native" if units else "emulated", "by": ", ".join(units)}


def _cuda(chosen: torch.device) -> dict[str, Any]:
    """CUDA and cuDNN of torch, the driver, and each device; no driver and no devices without a GPU.

    Free memory is that of the chosen device alone: a query of another one would occupy memory there.
    """
    devices = []
    for index in range(torch.cuda.device_count()):
        device, properties = torch.device("cuda", index), torch.cuda.get_device_properties(index)
        is_chosen = chosen.type == "cuda" and index == (chosen.index or 0)
        devices.append(
            {
                "name": properties.name,
                "compute_capability": f"{properties.major}.{properties.minor}",
                "multiprocessors": properties.multi_processor_count,
                "total_bytes": properties.total_memory,
                "free_bytes": torch.cuda.mem_get_info(device)[0] if is_chosen else None,
                "bf16": _precision(device)["bf16"],
            }
        )
    driver = _first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return {"toolkit": torch.version.cuda, "cudnn": _cudnn(), "driver": driver, "devices": devices}


def _cudnn() -> str | None:
    """The version of cuDNN; torch gives 91002 for 9.10.2, and 8907 for 8.9.7."""
    number = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    if number is None:
        return None
    major, rest = divmod(number, 10_000 if number >= 90_000 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _compiler(variable: str, names: Sequence[str]) -> str | None:
    """The compiler that the variable names, else the first of the names on the PATH, with its version; None without."""
    given = os.environ.get(variable)
    path = next(filter(None, map(shutil.which, [given] if given else names)), None)
    return f"{path}: {_first_line([path, '--version'])}" if path else None


def _first_line(command: Sequence[str]) -> str | None:
    """The first line that a command prints; None where it cannot be run."""
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return printed.partition("\n")[0].strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _data(root: Path) -> dict[str, Any]:
    """The data root, and which of kdrun's datasets have their directory there; nothing is read."""
    exists = os.path.isdir(root)
    return {
        "root": str(root),
        "exists": exists,
        "readable": exists and os.access(root, os.R_OK | os.X_OK),
        "datasets": [name for name, place in DIRECTORIES.items() if os.path.isdir(root / place)],
    }


def environment_variables() -> dict[str, str]:
    """The variables that matter, with values of those named like a secret replaced."""
    chosen = {name: value for name, value in sorted(os.environ.items()) if name in NAMES or name.startswith(PREFIXES)}
    for name, value in chosen.items():
        redaction.note(name, value)
    return {name: redaction.redacted(value) for name, value in chosen.items()}
