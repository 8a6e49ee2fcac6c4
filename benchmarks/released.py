"""Training in the manner of the code released with the Tf-KD paper (Yuan et al. 2020), as it is and with bf16.

fp32 in NCHW memory; the teacher's forward pass with autograd on; the loss, the number of correct answers and a progress
bar read from the device at every step; an optimiser that is not fused; evaluation without `no_grad`. Written from a
description of that code, which no longer runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from benchmarks.reference import Loop, default_tf32


class Released(Loop):
    """The released loop."""

    precision = torch.float32
    memory_format = torch.contiguous_format

    def step(self, images: Tensor, labels: Tensor) -> float:
        return self._step(images, labels)[0]

    def epoch(self) -> Iterator[float]:
        self.student.to(memory_format=self.memory_format).train()
        self.teacher.to(memory_format=self.memory_format).eval()
        total = correct = images_seen = 0.0
        with open(os.devnull, "w") as nowhere, tqdm(total=len(self.train), file=nowhere) as bar:
            for images, labels in self.train:
                loss, right = self._step(images, labels)
                images_seen += len(labels)
                total += loss * len(labels)
                correct += right
                bar.set_postfix(loss=f"{total / images_seen:05.3f}", acc=f"{correct / images_seen:05.3f}")
                bar.update()
                yield loss

    def evaluate(self) -> float:
        """Top-1 in percent; with autograd on."""
        self.student.eval()
        correct = images_seen = 0
        for images, labels in self.test:
            with default_tf32(self.device), self._autocast():
                logits = self.student(self._on_device(images))
            correct += int(logits.argmax(dim=1).eq(labels.to(self.device)).sum().item())
            images_seen += len(labels)
        return 100 * correct / images_seen

    def _step(self, images: Tensor, labels: Tensor) -> tuple[float, int]:
        """The step's loss and number of correct predictions."""
        images, labels = self._on_device(images), labels.to(self.device, non_blocking=True)
        with default_tf32(self.device):
            with self._autocast():
                logits = self.student(images)
                teacher_logits = self.teacher(images).detach()  # recorded for autograd, then detached
                loss = kd_loss(logits, labels, teacher_logits, alpha=self.pair.alpha, temperature=self.pair.temperature)
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()
        correct = int(logits.argmax(dim=1).eq(labels).sum().item())
        return loss.item(), correct

    def _on_device(self, images: Tensor) -> Tensor:
        return images.to(self.device, non_blocking=True).to(memory_format=self.memory_format)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16)


class TwoLines(Released):
    """The released loop with what is commonly added to it: bf16 autocast and channels_last memory."""

    precision = torch.bfloat16
    memory_format = torch.channels_last


def kd_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor, *, alpha: float, temperature: float) -> Tensor:
    """`(1 - alpha) CE + alpha T^2 KL / K` as released: `nn.KLDivLoss()` averages over all N K elements.

    Args:
        logits: the student's, `[N, K]`.
        labels: `[N]`, int64.
        teacher_logits: `[N, K]`.
        alpha: weight of the soft targets, in [0, 1].
        temperature: T > 0, on both sides.
    """
    log_probs = F.log_softmax(logits / temperature, dim=1)
    soft_targets = F.softmax(teacher_logits / temperature, dim=1)
    kl = F.kl_div(log_probs, soft_targets, reduction="none").mean()  # equals reduction="mean", which warns
    return kl * (alpha * temperature * temperature) + F.cross_entropy(logits, labels) * (1.0 - alpha)


def virtual_teacher(logits: Tensor, labels: Tensor, correct_prob: float) -> Tensor:
    """The probabilities `[N, K]` of Tf-KD_reg's virtual teacher, one image at a time as released."""
    num_classes = logits.shape[1]
    probs = torch.ones_like(logits)
    probs = probs * (1 - correct_prob) / (num_classes - 1)
    for i in range(len(labels)):
        probs[i, labels[i]] = correct_prob
    return probs
