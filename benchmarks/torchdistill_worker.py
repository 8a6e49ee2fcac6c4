"""The training of torchdistill in a process of its own, with the Python of `.bench-venv`, where it is installed.

The library's own `DistillationBox` with its data loaders, `KDLoss` and processes before and after a forward pass, from
a config as in its example for image classification, whose loop over the batches and evaluation this module follows.
As in the example everything is fp32; the teacher is frozen, and in eval mode, which the library does not set.

Usage: `python -m benchmarks.torchdistill_worker PAIR DEVICE THREADS STEPS BLOCKS`. Each line of the input is a request:
`steps` (STEPS training steps, BLOCKS times at most), `run` (a whole run of STEPS steps) or `prepare` (what a run needs
in the process); the line `done` on the output ends each.
"""

from __future__ import annotations

import itertools
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler, SequentialSampler
from torchdistill.common.main_util import save_ckpt
from torchdistill.core.distillation import get_distillation_box
from torchdistill.misc.log import MetricLogger, SmoothedValue

from benchmarks import reference
from benchmarks.reference import TEST_SIZE, Loop, num_workers
from benchmarks.task import BATCH_SIZE, LR, MOMENTUM, PAIRS, WEIGHT_DECAY, Pair, image_sets
from kdrun.training.precision import synchronize

LOG_FREQ = 100
OUTPUT = {"path": ".", "io": "output"}
"""Of the whole network."""


class TorchDistill(Loop):
    """The loop of torchdistill."""

    def __init__(self, student: Any, teacher: Any, pair: Pair, data: Any, *, num_images: int, device: Any) -> None:
        super().__init__(student, teacher.eval(), pair, data, num_images=num_images, device=device)
        config = _config(pair, num_images, device)
        sets = {"train": data[0], "test": data[1]}
        self.box = get_distillation_box(self.teacher, self.student, sets, config, device, None, False, 1)
        self.optimizer = self.box.optimizer

    def step(self, images: Tensor, labels: Tensor) -> float:
        return float(self._step(images, labels, {}))

    def epoch(self) -> Iterator[float]:
        self.box.pre_epoch_process(epoch=0)
        metrics = MetricLogger(delimiter="  ")
        metrics.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
        metrics.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
        for images, labels, extra in metrics.log_every(self.box.train_data_loader, LOG_FREQ, "Epoch: [0]"):
            started = time.time()
            loss = self._step(images, labels, extra)
            value = float(loss.item())
            metrics.update(loss=value, lr=self.optimizer.param_groups[0]["lr"])
            metrics.meters["img/s"].update(len(images) / (time.time() - started))
            if not torch.isfinite(loss):
                raise ValueError(f"loss = {loss}")
            yield value
        self.box.post_epoch_process()

    @torch.inference_mode()
    def evaluate(self) -> float:
        self.student.eval()
        metrics = MetricLogger(delimiter="  ")
        for images, labels in metrics.log_every(self.box.val_data_loader, LOG_FREQ, "Validation:"):
            images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            hits = self.student(images).topk(5, dim=1).indices.eq(labels[:, None])
            for k in (1, 5):
                accuracy = 100 * hits[:, :k].float().sum() / len(labels)
                metrics.meters[f"acc{k}"].update(accuracy.item(), n=len(labels))
        return float(metrics.meters["acc1"].global_avg)

    def save(self, path: Path) -> None:
        save_ckpt(self.student, self.optimizer, self.box.lr_scheduler, 0.0, Namespace(), str(path))

    def _step(self, images: Tensor, labels: Tensor, extra: Any) -> Tensor:
        images, labels = images.to(self.device), labels.to(self.device)
        loss: Tensor = self.box.forward_process(images, labels, extra)
        self.box.post_forward_process(loss=loss)
        return loss


def _config(pair: Pair, num_images: int, device: torch.device) -> dict[str, Any]:
    """The config of a training. Its `alpha` weighs the labels; with `mean` it divides the divergence by N K."""
    loader = {"batch_size": BATCH_SIZE, "num_workers": num_workers(), "pin_memory": device.type == "cuda"}
    logits = {f"{side}_module_{what}": value for side in ("student", "teacher") for what, value in OUTPUT.items()}
    loss = {**logits, "temperature": pair.temperature, "alpha": 1 - pair.alpha, "reduction": pair.kl_reduction}
    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler, "kwargs": {"num_samples": num_images}},
            "kwargs": loader,
        },
        "val_data_loader": {
            "dataset_id": "test",
            "sampler": {"class_or_func": SequentialSampler, "kwargs": {}},
            "kwargs": loader,
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": {"lr": LR, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
        },
    }


def main(name: str, device_name: str, threads: str, number: str, blocks: str) -> None:
    """Answers the requests on the input until it ends."""
    pair, device, steps = PAIRS[name], torch.device(device_name), int(number)
    torch.set_num_threads(int(threads))
    torch.backends.cudnn.benchmark = True  # as in the example
    training = reference.steps(TorchDistill, pair, device, steps * int(blocks))
    for request in sys.stdin:
        if request == "steps\n":
            if sum(1 for _ in itertools.islice(training, steps)) < steps:
                raise RuntimeError(f"more than {blocks} blocks of steps")
        elif request == "prepare\n":
            images = image_sets(steps * BATCH_SIZE, TEST_SIZE)
            reference.warm_up(TorchDistill, pair, device)
        elif request == "run\n":
            reference.run(TorchDistill, pair, images, device)
        else:
            raise ValueError(f"unknown request {request!r}")
        synchronize(device)
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
