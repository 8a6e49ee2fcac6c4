"""The side of kdrun: the parts of a run, combined as in a run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.task import BATCH_SIZE, LR, MEAN, MOMENTUM, STD, WEIGHT_DECAY, Pair
from kdrun.data import Augmentation, ImageSet, ResidentImages, TrainingViews
from kdrun.experiment.attempt import Request
from kdrun.experiment.choices import Choices, choose
from kdrun.experiment.runner import Runner
from kdrun.experiment.runtime import Runtime
from kdrun.experiment.steps import make_step
from kdrun.methods import KD, Batch
from kdrun.seeds import mix, seed_global_generators
from kdrun.spec.spec import Spec
from kdrun.store.store import Store
from kdrun.training.cuda_graphs import GraphedTeacher
from kdrun.training.guarded import GuardedStep
from kdrun.training.optimisation import build_optimizer
from kdrun.training.precision import autocast, on_device, use_nchw_on_small_maps
from kdrun.training.step import Step
from kdrun.training.teacher import LiveTeacher
from kdrun.training.trainer import Training


def training_views(
    images: ImageSet, law: Augmentation, device: torch.device, *, batch_size: int = BATCH_SIZE
) -> TrainingViews:
    """A run's views, with the distribution of the references'."""
    return TrainingViews(ResidentImages(images, mean=MEAN, std=STD, device=device), law, batch_size=batch_size, seed=0)


def choices_of(spec: Spec, device: torch.device) -> Choices:
    """The automatic choices for a run of this spec."""
    runtime = Runtime(device=device, data_root=Path(), output_root=Path(), threads=torch.get_num_threads())
    return choose(spec, runtime)


def kd_steps(
    student: nn.Module,
    teacher: nn.Module,
    pair: Pair,
    views: TrainingViews,
    choices: Choices,
    *,
    precision: str,
    device: torch.device,
) -> Iterator[Step | GuardedStep]:
    """Trains epoch after epoch as `kdrun.training.trainer.fit` does; yields after each step.

    Args:
        student: is trained.
        teacher: is not changed.
        pair: the hyper-parameters.
        views: the training data.
        choices: how the steps are computed.
        precision: `fp32` or `bf16`.
        device: where to compute.

    Yields:
        The object that computes the steps; its `end_epoch` reads the metrics.
    """
    method = KD(
        on_device(student, device), temperature=pair.temperature, alpha=pair.alpha, kl_reduction=pair.kl_reduction
    ).to(device)
    optimizer = build_optimizer(
        "sgd", method.parameters(), lr=LR, momentum=MOMENTUM, nesterov=False, weight_decay=WEIGHT_DECAY
    )
    teacher = on_device(teacher, device)
    if choices.small_maps_nchw:
        use_nchw_on_small_maps(method)
        use_nchw_on_small_maps(teacher)
    step = make_step(Training(method, optimizer), autocast(device, precision), choices)
    kind = GraphedTeacher if choices.cuda_graphs else LiveTeacher
    source = kind(teacher, autocast(device, precision), precision)
    generator = torch.Generator(device)
    for epoch in itertools.count():
        method.train()
        for number, (x, y, index, _) in enumerate(views.epoch(epoch)):
            # Counted across the short epochs: shares of the gradient are measured at step 0 only.
            place = epoch * len(views) + number
            batch = Batch(x=x, y=y, index=index, epoch=epoch, step=place, progress=0.0, generator=generator)
            output = source(batch)
            seed = mix(0, "step", epoch, number)
            seed_global_generators(seed, device)
            generator.manual_seed(seed)
            step.set_lr(LR)
            step(batch, output, first=place == 0)
            yield step
        step.end_epoch()


def execute(
    specs: Sequence[Spec], output_root: Path, device: torch.device, *, threads: int | None = None
) -> list[dict[str, Any]]:
    """Runs specs as the command line does, in lockstep if possible. Returns their results.

    Args:
        specs: the runs.
        output_root: directory of the runs.
        device: where to compute.
        threads: CPU threads; None: chosen by kdrun.

    Raises:
        Exception: the failure of a run.
    """
    runtime = Runtime(device=device, data_root=output_root, output_root=output_root, threads=threads)
    runner = Runner(Store(output_root), runtime)
    results = []
    for _, ended in runner.execute_all([Request(spec) for spec in specs]):
        if isinstance(ended, Exception):
            raise ended
        results.append(ended.result)
    return results
