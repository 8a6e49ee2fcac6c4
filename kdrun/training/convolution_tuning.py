"""Finds the plan of a model's convolutions by timing, and remembers what was found on a machine.

See `kdrun.training.convolution` for what a plan is and does. What pays depends on the CPU, on how the library was built
and on the number of threads, so nothing is assumed: every way of computing a gradient is timed beside the native one.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.files import JSON_LIMIT, parse_json, read_regular, sha256, write_json
from kdrun.training.convolution import NATIVE, Layer, Size, data_gradient, plan_key, read_choice, weight_gradient

MIN_SPEEDUP = 1.25
MIN_GAIN_SECONDS = 1e-4
"""Below these an algorithm is not taken: timings vary, and a planned convolution passes through some Python."""

ROUNDS = 3
SECONDS_PER_CHOICE = 0.05
"""Each algorithm is timed in so many rounds, and in more until all of them have taken so long together."""

log = logging.getLogger(__name__)


def tune(model: nn.Module, input_size: Size, *, known: Mapping[str, str]) -> dict[str, str]:
    """Chooses how each convolution of a model computes its gradients in bf16 on this CPU, with the threads in use.

    Of each algorithm the fastest of several timings counts, after one to warm up; the algorithms take turns, so that
    whatever else the machine does hits all of them. The model, its mode and its buffers stay as they are, and so do
    the random numbers of torch.

    Args:
        model: what is trained, in training mode or not.
        input_size: of its batches, `[N, C, H, W]`.
        known: choices made before on this machine, as from `load_known`; they are taken over without timing.

    Returns:
        The plan of this model, also what stays native, so that it is known the next time. Gradients that can be
        computed in one way only are not in it.
    """
    plan = {}
    for size, layer, needs_data in _convolutions(model, input_size):
        for gradient in ("data", "weight") if needs_data else ("weight",):
            key = plan_key(gradient, size, layer)
            if len(layer.candidates(gradient)) > 1 and key not in plan:
                plan[key] = known[key] if key in known else _fastest(gradient, size, layer)
    return plan


def _convolutions(model: nn.Module, input_size: Size) -> list[tuple[Size, Layer, bool]]:
    """Input, layer, and whether the input takes a gradient, of each convolution that trains.

    Nothing is computed: a copy of the model without data is asked.
    """
    found = []

    def note(layer: Layer, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        x = args[0] if args else kwargs["input"]
        if x.dim() == 4:
            batch, channels, height, width = x.shape
            found.append(((batch, channels, height, width), layer, x.requires_grad))

    bare = copy.deepcopy(model).to("meta", torch.float32).train()
    for module in bare.modules():
        if (layer := Layer.of(module)) is not None:
            module.register_forward_pre_hook(functools.partial(note, layer), with_kwargs=True)
    bare(torch.empty(*input_size, device="meta"))
    return found


def _fastest(gradient: str, size: Size, layer: Layer) -> str:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        values = torch.empty(shape, dtype=torch.bfloat16, memory_format=torch.channels_last)
        return values.uniform_(-1, 1, generator=generator)

    compute = data_gradient if gradient == "data" else weight_gradient
    x, weight = draw(*size), draw(layer.filters, size[1] // layer.groups, *layer.kernel)
    dy = draw(*F.conv2d(x, weight, None, layer.stride, layer.padding, 1, layer.groups).shape)
    seconds = best_seconds(
        {name: functools.partial(compute, name, dy, x, weight, layer) for name in layer.candidates(gradient)}
    )
    best = min(seconds, key=seconds.__getitem__)
    native = seconds[NATIVE]
    clearly = native >= MIN_SPEEDUP * seconds[best] and native - seconds[best] >= MIN_GAIN_SECONDS
    return best if clearly else NATIVE


def best_seconds(calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """The shortest wall time of each call, of `ROUNDS` or more in which they take turns, after one to warm up."""
    for call in calls.values():
        call()
    best = dict.fromkeys(calls, math.inf)
    started, rounds = time.perf_counter(), 0
    while rounds < ROUNDS or time.perf_counter() - started < SECONDS_PER_CHOICE:
        rounds += 1
        for name, call in calls.items():
            before = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - before)
    return best


def load_known(directory: Path) -> dict[str, str]:
    """The choices remembered for this machine, library and number of threads; none if there are none.

    A file that is not what `save_known` wrote is not used, which is told by a warning.

    Raises:
        OSError: the file is there but cannot be read.
    """
    path = _known_file(directory)
    try:
        content = parse_json(read_regular(path, JSON_LIMIT))
        choices = content["choices"]
        if content["machine"] != machine() or content["sha256"] != _fingerprint(choices):
            raise ValueError("its content is not what was written")
        for key, algorithm in choices.items():
            read_choice(key, algorithm)
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%s): convolutions are timed again", path, error)
        return {}
    return dict(choices)


def save_known(directory: Path, known: Mapping[str, str]) -> None:
    """Remembers choices for this machine, library and number of threads, instead of what was remembered before.

    Args:
        directory: of the cache; made if need be.
        known: what `load_known` gave, with the plans made since.

    Raises:
        OSError: the file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    choices = dict(sorted(known.items()))
    content = {"machine": machine(), "choices": choices, "sha256": _fingerprint(choices)}
    write_json(_known_file(directory), content)


def machine() -> dict[str, Any]:
    """What the time of a convolution depends on beside its shape: CPU, library, threads."""
    return {"cpu": _cpu(), "torch": torch.__version__, "threads": torch.get_num_threads()}


def _known_file(directory: Path) -> Path:
    return directory / f"convolutions-{_fingerprint(machine())[:10]}.json"


def _fingerprint(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode())


@functools.cache
def _cpu() -> dict[str, str]:
    """Model and instruction set, as far as the operating system tells."""
    cpu = {"machine": platform.machine(), "processor": platform.processor()}
    information = Path("/proc/cpuinfo")
    if information.exists():
        cpu |= dict(_described(information.read_text()))
    return cpu


def _described(cpuinfo: str) -> Iterator[tuple[str, str]]:
    """What Linux says of the first processor, on x86 or ARM; the long list of flags as its hash."""
    for line in cpuinfo.split("\n\n")[0].splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name in ("vendor_id", "cpu family", "model", "model name", "stepping", "CPU implementer", "CPU part"):
            yield name, value
        elif name.lower() in ("flags", "features"):
            yield "flags", sha256(" ".join(sorted(value.split())).encode())
