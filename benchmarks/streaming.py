"""Images read from files: kdrun's workers against torchvision's reference loader, at equal numbers of workers.

    python -m benchmarks.streaming --images 20000 --workers 2

prints images per second of CPU time (decode, RandomResizedCrop to 224, flip, normalisation) of each, in turns, the
ratios, and how much the memory of all processes grows over an epoch. The images are JPEGs of about 375x500 pixels.
"""

from __future__ import annotations

import argparse
import functools
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdrun.data import Augmentation, EncodedSet, StreamedImages, TrainingViews, Workers, folder

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZE, BATCH_SIZE, CLASSES = 224, 128, 10
LAW = Augmentation(crop_scale=(0.08, 1.0), flip=True)
DISTINCT = 500
"""Images of different content; the others are copies of them."""


def make_images(root: Path, count: int) -> None:
    """JPEGs of 333 to 500 pixels a side in `CLASSES` classes."""
    generator = np.random.default_rng(0)
    contents = []
    for number in range(min(count, DISTINCT)):
        width, height = (500, int(generator.integers(333, 376))) if number % 4 else (375, 500)
        coarse = Image.fromarray(generator.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + generator.normal(0, 14, smooth.shape)).clip(0, 255).astype(np.uint8)
        path = root / "one.jpg"
        Image.fromarray(noisy).save(path, quality=int(generator.integers(80, 93)))
        contents.append(path.read_bytes())
        path.unlink()
    for split, images in (("train", count), ("val", CLASSES)):
        for number in range(images):
            place = root / split / f"class{number % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:07}.jpg").write_bytes(contents[number % len(contents)])


def ours(root: Path, workers: int) -> tuple[Iterator[Tensor], Workers]:
    """Batches of an epoch, and the processes that make them."""
    train = folder(root, image_size=SIZE, in_channels=3).train
    assert isinstance(train, EncodedSet)
    pool = Workers([train], workers, pinned=False)
    images = StreamedImages(train, pool, train.labels, mean=MEAN, std=STD, device="cpu")
    views = TrainingViews(images, LAW, batch_size=BATCH_SIZE, seed=0)
    return (batch[0] for batch in views.epoch(0)), pool


def reference(root: Path, workers: int, *, backend: str) -> Iterator[Tensor]:
    """Batches of torchvision's reference training (references/classification/presets.py)."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    to_tensor = [v2.PILToTensor()]
    steps = [
        *(to_tensor if backend == "tensor" else []),
        v2.RandomResizedCrop(SIZE, antialias=True),
        v2.RandomHorizontalFlip(0.5),
        *(to_tensor if backend == "pil" else []),
        v2.ToDtype(torch.float, scale=True),
        v2.Normalize(mean=MEAN, std=STD),
    ]
    data = ImageFolder(str(root / "train"), v2.Compose(steps))
    loader: Any = torch.utils.data.DataLoader(data, BATCH_SIZE, shuffle=True, num_workers=workers)
    return (x for x, _ in loader)


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def memory_bytes(workers: Workers) -> int:
    """Of this process and the workers, shared pages counted once (proportional set size)."""
    loader: Any = workers._loader
    pids = ["self", *(process.pid for process in getattr(loader._iterator, "_workers", ()))]
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measured_ours(root: Path, workers: int) -> tuple[int, list[int]]:
    """The number of images of an epoch, and the memory after some of its batches."""
    batches, pool = ours(root, workers)
    count, memory = 0, []
    for number, batch in enumerate(batches):
        count += len(batch)
        if number % 10 == 9:
            memory.append(memory_bytes(pool))
    pool.close()
    return count, memory


def measured_reference(root: Path, workers: int, backend: str) -> int:
    """The number of images of an epoch."""
    return sum(map(len, reference(root, workers, backend=backend)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        make_images(root, options.images)
        size = sum(path.stat().st_size for path in (root / "train").rglob("*.jpg")) / options.images
        print(f"{options.images} images of {size / 1000:.0f} KB, {options.workers} workers")
        memory: list[int] = []

        def kdrun() -> int:
            count, found = measured_ours(root, options.workers)
            memory.extend(found)
            return count

        ways: dict[str, Callable[[], int]] = {"kdrun": kdrun}
        for backend in ("pil", "tensor"):
            ways[backend] = functools.partial(measured_reference, root, options.workers, backend)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, way in ways.items():
                cpu, wall = cpu_seconds(), time.perf_counter()
                count = way()
                rates[name].append(count / (cpu_seconds() - cpu))
                per_second = count / (time.perf_counter() - wall)
                print(f"{name:8} {rates[name][-1]:7.1f} images/s per core, {per_second:7.1f} images/s", flush=True)
        for name in ("pil", "tensor"):
            ratios = [ours / theirs for ours, theirs in zip(rates["kdrun"], rates[name], strict=True)]
            median, least, most = statistics.median(ratios), min(ratios), max(ratios)
            print(f"kdrun / torchvision ({name}): {median:.2f} ({least:.2f} to {most:.2f})")
        if memory:
            first = memory[: len(memory) // options.rounds]
            print(f"memory over an epoch: {min(first) / 1e6:.0f} to {max(first) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
