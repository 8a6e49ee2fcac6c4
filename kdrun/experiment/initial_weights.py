"""A student's initial weights: random, the user's own, or those of a finished run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kdrun.experiment.build import build_student, outline_of
from kdrun.experiment.teachers import recorded_weights
from kdrun.experiment.weights import load_weights, own_weights
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.spec import Component, Spec
from kdrun.store.checkpoint import CheckpointError
from kdrun.store.run import Run

Outputs = Sequence[tuple[int, ...]]


def initial_student(
    spec: Spec, weight_files: Mapping[str, Path], start: Run | None, rest: tuple[int, int] | None
) -> nn.Module:
    """A run's student before its training; draws from torch's global generator.

    Raises:
        CheckpointError: the weights are not the recorded ones, or do not fit the student.
        FileNotFoundError: the user's own weights are in no file.
    """
    student = build_student(spec.student, spec.dataset)
    if spec.weights is not None:
        path = weight_files.get(spec.weights)
        if path is None:
            raise FileNotFoundError(f"no file has SHA-256 {spec.weights}: name it with teacher.checkpoint=FILE")
        own = own_weights(path, spec.student, spec.dataset)
        if own.digest != spec.weights:
            raise CheckpointError(f"{path} changed while kdrun ran: SHA-256 {own.digest}, not {spec.weights}")
        load_weights(student, {**student.state_dict(), **own.state}, path)
    if start is not None:
        begin_from(student, spec.dataset, start, rest)
    return student


def begin_from(student: nn.Module, dataset: DatasetSpec, start: Run, rest: tuple[int, int] | None = None) -> None:
    """Gives a network the weights of a finished run.

    If the two have different outputs, those of the last layer are `regrouped`. A specialist begins at the prior of its
    own training set: the biases for other classes are lowered by `oversampling_correction`, which is added to its
    dustbin again when it answers.

    Args:
        student: of the architecture that the run trained.
        dataset: of the student.
        start: the run.
        rest: `kdrun.data.Selected.rest`, of a specialist that starts from a run on all classes; else None.

    Raises:
        CheckpointError: the run's weights are not those its result records, or do not fit the network.
        ValueError: a specialist whose last layer has no bias.
    """
    state = recorded_weights(start)
    last = last_layer(start.spec.student, start.spec.dataset)
    theirs, ours = start.spec.dataset.outputs, dataset.outputs
    if ours != theirs:
        state.update({name: regrouped(state[name], theirs, ours) for name in last})
    if rest is not None:
        if not has_bias(last):
            raise ValueError(f"{start.spec.student.name}: its last layer has no bias; a specialist needs one")
        lowered = -oversampling_correction(*rest)
        special = set(dataset.special or ())
        shift = torch.tensor([0.0 if special.issuperset(classes) else lowered for classes in ours])
        state.update({name: state[name] + shift for name, shape in last.items() if len(shape) == 1})
    load_weights(student, state, start.weights)


def oversampling_correction(num_rest_drawn: int, num_rest: int) -> float:
    """What to add to the logit of a specialist's dustbin once it is trained: `log(num_rest / num_rest_drawn)`.

    The specialist sees all images of its classes, and of the rest a random part, so the classes are oversampled
    against the dustbin by num_rest / num_rest_drawn. What it learns is `p(y|x) ~ p(x|y) pi(y)` with the priors pi of
    its training images: each pi(k) in proportion to the images of class k, pi(dustbin) to num_rest_drawn. A random
    part of the rest looks as the rest does, so p(x|y) is the true one; only pi(dustbin) has to be multiplied by
    num_rest / num_rest_drawn, and that is adding its log to the logit. The number of special images cancels.

    Args:
        num_rest_drawn: images of other classes in an epoch of the specialist, at least 1.
        num_rest: images of other classes there are, at least 1.

    Raises:
        ValueError: a number below 1.
    """
    for name, value in (("num_rest_drawn", num_rest_drawn), ("num_rest", num_rest)):
        if value < 1:
            raise ValueError(f"{name}={value!r}: must be at least 1")
    return math.log(num_rest / num_rest_drawn)


def last_layer(student: Component, dataset: DatasetSpec) -> dict[str, tuple[int, ...]]:
    """The parameters of the layer whose output is the network's logits: names and shapes, the bias `[K]`."""
    network = outline_of(student, dataset)
    return {name: shape for name, shape in network.parameters.items() if name.rpartition(".")[0] in network.output}


def has_bias(layer: Mapping[str, tuple[int, ...]]) -> bool:
    return any(len(shape) == 1 for shape in layer.values())


def regrouped(last: Tensor, theirs: Outputs, ours: Outputs) -> Tensor:
    """A last layer's weights `[K, ...]` or bias `[K]`, for outputs that stand for other sets of classes.

    An output for a set R of several classes (a specialist's dustbin) has the mean of their weights, and the mean of
    their biases plus log |R|. Its logit is `mean of z_k + log |R|`, while their joint probability has the logit
    `logsumexp of z_k`, which no linear layer computes. The first is smaller by `KL(u || p(k | k in R))`, u uniform over
    R: nothing where their logits are equal or R is one class. The logits of single classes are exact. Hinton et al. do
    not say how the dustbin begins.

    Args:
        last: of outputs that stand for one class each.
        theirs: their classes.
        ours: the classes of the outputs that are asked for.

    Returns:
        `[len(ours), ...]`.
    """
    row = {classes: number for number, classes in enumerate(theirs)}
    rows = []
    for classes in ours:
        mean = last[[row[(label,)] for label in classes]].mean(dim=0)
        rows.append(mean + math.log(len(classes)) if last.ndim == 1 else mean)
    return torch.stack(rows)
