"""A student that is nothing but its answer, a batch, and a teacher's answer to it."""

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import nn

from kdrun.methods import Batch, Method, Pair, TeacherOutput, TrainingSet
from kdrun.taps import Outline

N, K = 8, 6


class Answer(nn.Module):
    """A student whose logits `[N, K]` are its only parameter; it counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.logits = nn.Parameter(torch.randn(N, K, generator=generator, dtype=torch.float64))
        self.inputs: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inputs.append(x)
        return self.logits


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        x=torch.zeros(N, 3, 8, 8),
        y=torch.arange(N) % K,
        index=torch.arange(N),
        epoch=0,
        step=0,
        progress=0.0,
        generator=generator,
    )


@pytest.fixture
def teacher() -> TeacherOutput:
    """One teacher's logits, those of three, and the weights of a classifier."""
    generator = torch.Generator().manual_seed(2)

    def drawn(*shape: int) -> torch.Tensor:
        return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    return TeacherOutput(drawn(N, K), weights={"classifier.weight": drawn(K, 4)}, members=drawn(3, N, K))


@pytest.fixture
def build() -> Callable[..., Method]:
    """Makes a method around a fresh student (`Answer`), whose outline and examples it is told if it asks."""

    def make(kind: type[Method], **options: object) -> Method:
        if "pair" in inspect.signature(kind).parameters:
            student = Outline("student", {"pool": (4,), "classifier": (K,)}, num_classes=K)
            teacher = Outline("teacher", parameters={"stem.weight": (8, 3, 3, 3), "classifier.weight": (K, 4)})
            options["pair"] = Pair(student, teacher, Answer)
        if "training" in inspect.signature(kind).parameters:
            options["training"] = TrainingSet(torch.arange(N) % K, N, K)
        return kind(Answer(), **options)

    return make
