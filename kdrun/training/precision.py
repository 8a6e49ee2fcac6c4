"""Where and in which precision a run computes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor, nn

PRECISIONS = ("auto", "fp32", "bf16")
SMALL_STEP_MACS = 1_000_000_000

MOST_DEVICES = 64
"""Processes that execute runs side by side, at most."""

BF16_CAPABILITY = (8, 0)
"""The compute capability from which CUDA devices have arithmetic in bf16 (Ampere)."""

SMALL_MAP = 4
MANY_CHANNELS = 256
"""Convolutions of at least this number of channels (on both sides) on maps of at most 4x4 pixels are 1.7 to 1.9 times
as fast (forward) in NCHW as in channels_last memory in fp32 on a CPU (oneDNN 3.12; docs/performance.md)."""


def resolve_device(name: str) -> torch.device:
    """The device that `auto | cpu | cuda | cuda:N | mps` means here; `auto` prefers cuda, then mps.

    Raises:
        ValueError: an unknown name, or a device this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"{name!r} is no device: must be auto, cpu, cuda, cuda:N or mps")
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= available[device.type]:
        raise ValueError(f"{name!r} is not available on this machine ({available[device.type]} {device.type} devices)")
    return device


def resolve_devices(names: Literal["all"] | Sequence[int | str]) -> tuple[torch.device, ...]:
    """The devices of these names, of one kind; a number is that of a CUDA device, and `all` is every CUDA device.

    A device that is named twice computes two runs at a time.

    Raises:
        ValueError: none or too many, a device that this machine does not have, or devices of several kinds.
    """
    if names == "all" and not torch.cuda.is_available():
        raise ValueError("'all' is every CUDA device, and this machine has none")
    chosen = range(torch.cuda.device_count()) if names == "all" else names
    if not 0 < len(chosen) <= MOST_DEVICES:
        raise ValueError(f"a list of {len(chosen)} devices: must have at least 1 and at most {MOST_DEVICES}")
    devices = tuple(resolve_device(f"cuda:{name}" if isinstance(name, int) else name) for name in chosen)
    if len(kinds := sorted({device.type for device in devices})) > 1:
        raise ValueError(f"devices of several kinds ({', '.join(kinds)}): runs side by side must compute alike")
    return devices


def resolve_precision(name: str, device: torch.device) -> str:
    """`fp32` or `bf16`; `auto` is bf16 on CUDA devices that compute in it, and fp32 elsewhere.

    A rule, never a timing, as it changes numbers.

    Raises:
        ValueError: an unknown name.
    """
    if name not in PRECISIONS:
        raise ValueError(f"{name!r} is no precision: must be one of {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and has_bf16(device) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether a CUDA device computes in bf16 itself; older ones emulate it, which is slower than fp32."""
    return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY


def resolve_threads(macs_per_step: int, device: torch.device, available: int) -> int:
    """How many CPU threads a run computes with: all of them, or one where a step is small.

    Threads that share a small operation wait for each other longer than they compute; on a busy machine a hundred
    times longer. A rule, never a timing, since the number of threads changes the last bits of a result.
    """
    small = device.type == "cpu" and macs_per_step < SMALL_STEP_MACS
    return 1 if small else available


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on a device, its convolutions in channels_last memory."""
    return model.to(device).to(memory_format=torch.channels_last)


def use_nchw_on_small_maps(model: nn.Module) -> nn.Module:
    """Computes the model's wide convolutions (`MANY_CHANNELS`) in NCHW wherever their output is at most 4x4.

    In place; the outputs differ from those in channels_last memory by rounding. On larger maps the convolutions compute
    the same bits as before.
    """
    for conv in [module for module in model.modules() if type(module) is nn.Conv2d]:
        wide = min(conv.in_channels, conv.out_channels) >= MANY_CHANNELS
        if wide and conv.groups == 1 and conv.kernel_size != (1, 1):
            conv.to(memory_format=torch.contiguous_format)
            conv.register_forward_pre_hook(_small_map_in_nchw)
    return model


def _small_map_in_nchw(conv: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Torch computes in channels_last memory if the input or the weight is in it."""
    assert isinstance(conv, nn.Conv2d)
    if not inputs:  # a network's own conv(input=x), which is computed as it is
        return inputs
    (x,) = inputs
    small = max(x.shape[-2] // conv.stride[0], x.shape[-1] // conv.stride[1]) <= SMALL_MAP
    return (x.contiguous() if small else x,)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context in which models run: bf16 autocast over fp32 weights, or plain fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def synchronize(device: torch.device) -> None:
    """Waits for the device, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def prepare_device(device: torch.device) -> None:
    """Sets what the whole process computes with: called before anything is computed on the device.

    On CUDA the device becomes the current one, since graphs are captured and libraries choose their algorithms there;
    fp32 means fp32 (convolutions are TF32 by default); and cuBLAS and cuDNN take deterministic algorithms by rule.
    cuDNN's benchmark mode stays off: it chooses algorithms by timing, so two equal runs could end with other bits.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, at the first product of matrices
        torch.cuda.set_device(device.index or 0)  # which takes no device without a number
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
