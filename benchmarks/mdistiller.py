"""Training in the manner of mdistiller's `train_iter` with its KD (Zhao et al. 2022, revision a08d46f).

fp32 in NCHW memory; the teacher in eval mode without autograd; top-1 and top-5 by `topk`, the loss read from the device
and a line of the running means formatted for the progress bar at every step. Left out, for the benefit of the
reference: `nn.DataParallel` around the networks, and the index of each image in its batches.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from benchmarks.reference import Loop, default_tf32


class MDistiller(Loop):
    """The loop."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._means: defaultdict[str, _Mean] = defaultdict(_Mean)

    def step(self, images: Tensor, labels: Tensor) -> float:
        self.optimizer.zero_grad()
        started = time.time()
        images = images.float().to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        with default_tf32(self.device):
            logits = self.student(images)
            with torch.no_grad():
                teacher_logits = self.teacher(images)
            loss = self._loss(logits, labels, teacher_logits)
            loss.backward()
        self.optimizer.step()
        self._means["seconds"].add(time.time() - started, 1)
        top1, top5 = _accuracies(logits, labels)
        value = float(loss.detach().cpu())
        for name, figure in (("loss", value), ("top1", top1), ("top5", top5)):
            self._means[name].add(figure, len(labels))
        return value

    def epoch(self) -> Iterator[float]:
        self.student.train()
        self.teacher.eval()
        with open(os.devnull, "w") as nowhere, tqdm(total=len(self.train), file=nowhere) as bar:
            for images, labels in self.train:
                loss = self.step(images, labels)
                bar.set_description(" | ".join(f"{name} {float(mean):.3f}" for name, mean in self._means.items()))
                bar.update()
                yield loss

    @torch.no_grad()
    def evaluate(self) -> float:
        """Top-1 in percent."""
        self.student.eval()
        top1 = _Mean()
        for images, labels in self.test:
            with default_tf32(self.device):
                logits = self.student(images.to(self.device))
            top1.add(_accuracies(logits, labels.to(self.device))[0], len(labels))
        return float(top1)

    def _loss(self, logits: Tensor, labels: Tensor, teacher_logits: Tensor) -> Tensor:
        """`(1 - alpha) CE + alpha T^2 KL`, KL summed over the classes."""
        alpha, temperature = self.pair.alpha, self.pair.temperature
        log_probs = F.log_softmax(logits / temperature, dim=1)
        soft_targets = F.softmax(teacher_logits / temperature, dim=1)
        kl = F.kl_div(log_probs, soft_targets, reduction="none").sum(dim=1).mean()
        return (1 - alpha) * F.cross_entropy(logits, labels) + alpha * temperature**2 * kl


class _Mean:
    """A mean over images; values may stay on the device until it is read."""

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._number = 0

    def add(self, value: Tensor | float, number: int) -> None:
        self._sum = self._sum + value * number
        self._number += number

    def __float__(self) -> float:
        return float(self._sum) / self._number


@torch.no_grad()
def _accuracies(logits: Tensor, labels: Tensor) -> list[Tensor]:
    """Top-1 and top-5 in percent, as scalars on the device."""
    hits = logits.topk(5, dim=1).indices.eq(labels[:, None])
    return [100 * hits[:, :k].float().sum() / len(labels) for k in (1, 5)]
