"""The runs that are checked: each family of networks and each kind of method, or the user's own run made small.

Their data is made up: nothing is read or downloaded.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from kdrun.data import Augmentation, SequenceSet, Splits
from kdrun.spec.dataset import DatasetSpec, ImageDatasetSpec, SequenceDatasetSpec
from kdrun.spec.spec import Component, Recipe, Spec

EPOCHS = 2
STEPS = 4
"""Steps of an epoch. On CUDA a captured step is replayed from the fourth one on."""

CPU_BATCH = 16

CLASSES = 4
TOKENS = 16
LENGTH = 8


@dataclass(frozen=True)
class Case:
    """A run to check, with its name in tables: network and method."""

    name: str
    spec: Spec


def tokens(num_classes: int, num_tokens: int, length: int, per_token: bool, train_size: int, test_size: int) -> Splits:
    """Made-up sequences: the label is the sum of the tokens so far, or of all, modulo the number of classes.

    The counterpart of `kdrun.data.synthetic` for sequences.
    """
    generator = torch.Generator().manual_seed(0)

    def sequences(size: int) -> SequenceSet:
        drawn = torch.randint(1, num_tokens, (size, length), generator=generator)
        sums = drawn.cumsum(dim=1) % num_classes
        return SequenceSet(drawn, sums if per_token else sums[:, -1])

    names = tuple(f"class {label}" for label in range(num_classes))
    return Splits(sequences(train_size), sequences(test_size), names)


def shipped_cases(device: torch.device, precision: str) -> list[Case]:
    """Each family of networks (mlp, lstm and transformer with dropout) and each kind of method: logits, features,
    relations, two stages, peers. Cases on the same data share their teacher.

    On CUDA images and batches have the usual size, so that the seconds are those of real steps; elsewhere they are
    the smallest ones.
    """
    side, batch = (32, 128) if device.type == "cuda" else (8, CPU_BATCH)
    images = ImageDatasetSpec(
        "kdrun.data.synthetic", "none", CLASSES, 3, side, STEPS * batch, batch, (0.5,) * 3, (0.25,) * 3
    )
    words = SequenceDatasetSpec("kdrun.diagnosis.cases.tokens", "none", CLASSES, TOKENS, LENGTH, STEPS * batch, batch)
    views = Augmentation(crop_padding=1, flip=True, rotation=15.0)
    recipe = Recipe(epochs=EPOCHS, batch_size=batch, lr=0.05, augmentation=views)

    def run(data: DatasetSpec, network: str, method: str = "CE", *teachers: Spec, **options: Any) -> Spec:
        sizes = NETWORKS.get(network, {})
        law = recipe if data is images else replace(recipe, augmentation=Augmentation())
        components = (Component(f"kdrun.models.{network}", sizes), Component(f"kdrun.methods.{method}", options))
        return Spec(data, *components, law, precision=precision, teachers=teachers)

    teacher, reader = run(images, "resnet14"), run(words, "lstm")
    specs = {
        "resnet8 kd": run(images, "resnet8", "KD", teacher),
        "mobilenetv2 at": run(images, "mobilenetv2", "AT", teacher),
        "transformer kd": run(words, "transformer", "KD", reader),
        "cnn fitnet": run(images, "cnn", "FitNet", teacher, stage1_epochs=0),
        "shufflenetv2 rkd": run(images, "shufflenetv2", "RKD", teacher),
        "resnet8 fsp": run(images, "resnet8", "FSP", teacher, stage1_epochs=1),
        "mlp kd": run(images, "mlp", "KD", teacher),
        "cnn dml": run(images, "cnn", "DML"),
        "lstm ce": run(words, "lstm"),
    }
    return [Case(name, spec) for name, spec in specs.items()]


NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (32,), "dropout": 0.2},
    "lstm": {"width": 8, "embedding": 8},
    "transformer": {"causal": True, "width": 8, "heads": 2, "depth": 2},
}
"""Options that make networks small."""


def shrunk(spec: Spec, device: torch.device) -> Spec:
    """A run of the user's own on a few made-up examples of the same shape, in `EPOCHS` epochs; its teachers likewise.

    A teacher with weights from a file is trained instead. On a CPU larger batches are halved down to `CPU_BATCH`, as
    the checks would take too long otherwise.
    """
    batch = spec.recipe.batch_size
    while device.type == "cpu" and batch > CPU_BATCH and batch % 2 == 0:
        batch //= 2
    return _shrunk(spec, batch)


def _shrunk(spec: Spec, batch: int) -> Spec:
    size = min(spec.recipe.batch_size, batch)
    stages = {"stage1_epochs": 1} if spec.stage1_epochs else {}
    recipe = replace(
        spec.recipe,
        batch_size=size,
        accumulate=2 if spec.recipe.accumulate > 1 and size % 2 == 0 and size > 2 else 1,
        epochs=EPOCHS,
        warmup_epochs=min(spec.recipe.warmup_epochs, 1),
        evaluate_every=1,
    )
    return replace(
        spec,
        dataset=_made_up(spec.dataset, batch),
        method=replace(spec.method, options={**spec.method.options, **stages}),
        recipe=recipe,
        stop_epoch=None,
        teachers=tuple(_shrunk(teacher, batch) for teacher in spec.teachers),
        weights=None,
        start=spec.start and _shrunk(spec.start, batch),
    )


def _made_up(data: DatasetSpec, batch: int) -> DatasetSpec:
    """A dataset of the same shape and classes whose examples are made up; every class has one."""
    size = batch * max(STEPS, math.ceil(data.num_classes / batch))
    loader = "kdrun.data.synthetic" if isinstance(data, ImageDatasetSpec) else "kdrun.diagnosis.cases.tokens"
    changes: dict[str, Any] = {"target": loader, "identity": "none", "train_size": size, "test_size": batch}
    for field in dataclasses.fields(data):  # type: ignore[arg-type]
        if field.name in ("train_fraction", "val_fraction", "classes", "special", "test_split", "source"):
            changes[field.name] = field.default
    return replace(data, **changes)  # type: ignore[type-var]
