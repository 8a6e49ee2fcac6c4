"""A run that begins where another one ended: its first weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdrun.experiment.build import load_weights, outline_of
from kdrun.experiment.dataset_spec import DatasetSpec
from kdrun.experiment.run import Run
from kdrun.experiment.teachers import recorded_weights

Outputs = Sequence[tuple[int, ...]]


def begin_from(student: nn.Module, dataset: DatasetSpec, start: Run) -> None:
    """Gives a network the weights of a finished run.

    Where the two tell different classes, the last layer's outputs are `regrouped`.

    Args:
        student: of the architecture that the run trained.
        dataset: of the student.
        start: the run.

    Raises:
        CheckpointError: the run's weights are not those its result records, or do not fit the network.
    """
    state = recorded_weights(start)
    theirs, ours = start.spec.dataset.outputs, dataset.outputs
    if ours != theirs:
        last = outline_of(start.spec.student, start.spec.dataset).output
        for name in [name for name in state if name.rpartition(".")[0] in last]:
            state[name] = regrouped(state[name], theirs, ours)
    load_weights(student, state, start.weights)


def regrouped(last: Tensor, theirs: Outputs, ours: Outputs) -> Tensor:
    """A last layer's weights `[K, ...]` or bias `[K]`, for outputs that stand for other sets of classes.

    An output for several classes (a specialist's dustbin) has the mean of their weights, and the mean of their biases
    plus the logarithm of their number: with equal logits, the probability that they have together. Hinton et al. do
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
