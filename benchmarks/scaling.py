"""The arithmetic of docs/scaling.md: time and memory of ImageNet distillation on H200s, from counted operations.

    python -m benchmarks.scaling

Nothing is trained: networks are on the meta device. Every constant that is not counted here is named below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from kdrun import models
from kdrun.models.cost import num_parameters, saved_bytes
from kdrun.training.folding import folded

# An H200, by its data sheet.
FLOPS = 989e12
"""Dense bf16 operations per second."""
BANDWIDTH = 4.8e12
"""Bytes per second of its memory."""
MEMORY = 141e9

# A machine of 8 (a DGX H200: 2 x 56 cores, NVLink, one 400 Gb/s port per GPU).
CORES_PER_GPU = 14
NVLINK = 450e9
"""Bytes per second and direction."""
NETWORK = 50e9

# ImageNet and the recipe (conf/dataset/imagenet.yaml, conf/recipe/imagenet.yaml).
IMAGES, TEST_IMAGES, EPOCHS, SIDE = 1_281_167, 50_000, 90, 224
JPEG_BYTES = 110e3
"""Mean size of a training image: 138 GB / 1.28 million."""

# Assumptions: to be replaced by measurements on the machine in question.
EFFICIENCY = 0.5
"""Share of the roofline that convolutional networks reach."""
DECODED_PER_CORE = 150.0
"""JPEGs of 375 x 500 pixels decoded, cropped and flipped per core and second."""

LAUNCH_SECONDS = 10e-6
"""Of an operation that is not captured or compiled: what a step takes however few images it has."""
LATENCY_SECONDS = 30e-6
"""Of a small all-reduce: BatchNorm over the global batch has one forward and one backward for each layer."""

TASK = "imagenet_resnet34", "imagenet_resnet18"


class Roofline(TorchDispatchMode):
    """Adds up floating-point operations, bytes read and written, and the least time for the larger of the two.

    Each operation reads and writes the memory by itself, as in steps that are not compiled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = self.seconds = 0.0
        self.launches = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula: Callable[..., int] | None = flop_registry.get(func.overloadpacket)
        if not func.is_view:
            flops = formula(*args, **(kwargs or {}), out_val=out) if formula else 0
            moved = sum(each.nbytes for each in (*_tensors(args), *_tensors(out)))
            self.flops += flops
            self.bytes += moved
            self.launches += 1
            self.seconds += max(flops / FLOPS, moved / BANDWIDTH)
        return out


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [each for item in value for each in _tensors(item)] if isinstance(value, (list, tuple)) else []


@dataclass(frozen=True)
class Cost:
    """Operations, bytes and least seconds of one image; launches of a step, and BatchNorms of the student."""

    flops: float
    bytes: float
    seconds: float
    launches: int
    norms: int


def step_cost(teacher: str, student: str, batch: int) -> Cost:
    """The teacher's forward pass, BatchNorm folded, and the student's forward and backward pass, in bf16."""
    with torch.device("meta"):
        networks = [getattr(models, name)(1000).bfloat16() for name in (teacher, student)]
        x = torch.empty(batch, 3, SIDE, SIDE, dtype=torch.bfloat16)
        taught, trained = folded(networks[0]), networks[1].train()
        with Roofline() as counted:
            with torch.no_grad():
                taught(x)
            trained(x).sum().backward()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in trained.modules())
    return Cost(counted.flops / batch, counted.bytes / batch, counted.seconds / batch, counted.launches, norms)


@dataclass(frozen=True)
class Setting:
    """Times in seconds per step, and hours of the whole run."""

    gpus: int
    batch: int
    compute: float
    decode: float
    reduce: float

    @property
    def step(self) -> float:
        """Decoding, computing and reducing go on side by side."""
        return max(self.compute, self.decode, self.reduce)

    @property
    def bottleneck(self) -> str:
        return max(("decode", "compute", "reduce"), key=lambda name: getattr(self, name))

    @property
    def hours(self) -> float:
        steps = EPOCHS * math.ceil(IMAGES / self.batch)
        tested = EPOCHS * TEST_IMAGES / (self.gpus * CORES_PER_GPU * DECODED_PER_CORE)
        return (steps * self.step + tested) / 3600


def setting(gpus: int, batch: int, cost: Cost, gradient_bytes: float) -> Setting:
    own = batch / gpus
    link = NVLINK if gpus <= 8 else NETWORK
    norms = 2 * cost.norms * LATENCY_SECONDS if gpus > 1 else 0.0
    return Setting(
        gpus,
        batch,
        compute=max(own * cost.seconds / EFFICIENCY, cost.launches * LAUNCH_SECONDS) + norms,
        decode=own / (CORES_PER_GPU * DECODED_PER_CORE),
        reduce=2 * (gpus - 1) / gpus * gradient_bytes / link,
    )


def memory(teacher: str, student: str, images: int) -> dict[str, float]:
    """Bytes on one GPU with this many images of a batch."""
    with torch.device("meta"):
        taught, trained = (getattr(models, name)(1000) for name in (teacher, student))
    return {
        "student, gradient, momentum (fp32)": 12 * num_parameters(trained),
        "teacher (bf16)": 2 * num_parameters(taught),
        "activations for backward (bf16)": images * saved_bytes(trained, (3, SIDE, SIDE)) / 2,
        "batches ahead (uint8)": 2 * images * 3 * SIDE * SIDE,
    }


def main() -> None:
    teacher, student = TASK
    cost = step_cost(teacher, student, 256)
    with torch.device("meta"):
        parameters = num_parameters(getattr(models, student)(1000))
    print(f"{teacher} -> {student}: {cost.flops / 1e9:.1f} GFLOP and {cost.bytes / 1e6:.0f} MB per image")
    print(f"a step: {cost.launches} operations, {cost.norms} BatchNorms of the student")
    reached = EFFICIENCY / cost.seconds
    print(f"roofline: {1 / cost.seconds:.0f} images/s per GPU, at {EFFICIENCY:.0%} of it {reached:.0f}")
    cores, decoded = reached / DECODED_PER_CORE, CORES_PER_GPU * DECODED_PER_CORE
    print(f"decoding: {decoded:.0f} images/s per GPU; as fast as computing with {cores:.0f} cores per GPU")
    images = EPOCHS * IMAGES
    print(
        f"the run: {images:.3g} images, {images * cost.flops:.3g} FLOP, {images * JPEG_BYTES / 1e12:.1f} TB of JPEGs\n"
    )
    print("| GPUs | batch | compute ms | decode ms | all-reduce ms | images/s | hours | bottleneck |")
    print("|--:|--:|--:|--:|--:|--:|--:|---|")
    for gpus, batch in ((1, 256), (8, 256), (8, 2048), (64, 256), (64, 8192)):
        each = setting(gpus, batch, cost, 4 * parameters)
        times = " | ".join(f"{1e3 * value:.2f}" for value in (each.compute, each.decode, each.reduce))
        print(f"| {gpus} | {batch} | {times} | {batch / each.step:.0f} | {each.hours:.2f} | {each.bottleneck} |")
    print("\n| memory of one GPU, 256 images | GB |\n|---|--:|")
    found = memory(teacher, student, 256)
    for name, size in found.items():
        print(f"| {name} | {size / 1e9:.2f} |")
    print(f"| together, of {MEMORY / 1e9:.0f} | {sum(found.values()) / 1e9:.2f} |")


if __name__ == "__main__":
    main()
