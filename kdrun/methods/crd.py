"""Contrastive representation distillation: the only method here that remembers what it saw in other batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Distillation, Needs, Pair, StudentOutput, TeacherOutput, TrainingSet
from kdrun.methods.pairing import one_tap


class CRD(Distillation):
    """Contrastive representation distillation (Tian et al. 2020): `hard_weight CE + weight (L_s + L_t)`.

    Both networks' features are projected linearly to unit length. The student's embedding of an image must identify the
    teacher's embedding of the same image among those of `num_negatives` images of other classes (L_s), and the other
    way round (L_t). The embeddings of all training images are kept in two memories, and are moved to the new ones when
    an image is seen. Memories and normalisation are part of the checkpoint, not of the student.

    Args:
        student: the network.
        pair: outlines of student and teacher.
        training: the examples that the memories are of.
        num_negatives: k, at least 1. They are drawn without replacement; with it where a class leaves fewer.
        embedding_size: d, at least 1.
        temperature: T, from 0.001 to 10,000, of the scores.
        momentum: share of the old embedding when a memory is moved, in [0, 1).
        weight: of the contrastive term, from 0 to 1e9.
        hard_weight: of the cross-entropy, from 0 to 1e9.
        student_tap: of any shape; None is the vector that the last layer takes.
        teacher_tap: its counterpart; None likewise. Of one that is named the other is the namesake.

    Raises:
        ValueError: an option outside these ranges, or examples with a label for every token.
    """

    name = "crd"
    label = "CRD"
    knowledge = "relation"
    needs = Needs(logits=True, any_task=True)
    student_memory: Tensor
    teacher_memory: Tensor
    log_z: Tensor

    def __init__(
        self,
        student: nn.Module,
        pair: Pair,
        training: TrainingSet,
        *,
        num_negatives: int = 16384,
        embedding_size: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        weight: float = 0.8,
        hard_weight: float = 1.0,
        student_tap: str | None = None,
        teacher_tap: str | None = None,
    ) -> None:
        super().__init__(student)
        self.weigh(weight, hard_weight)
        losses.check_range("num_negatives", num_negatives, 1, 1_000_000)
        losses.check_range("embedding_size", embedding_size, 1, 1_000_000)
        losses.check_temperature("temperature", temperature)
        losses.check_range("momentum", momentum, 0, 1)
        if momentum == 1:
            raise ValueError("momentum=1: must be less than 1, or the memories stay as they are drawn")
        self.num_negatives = num_negatives
        self.temperature = temperature
        self.momentum = momentum
        self.student_tap, self.teacher_tap = one_tap(pair, student_tap, teacher_tap, lambda network: network.vector)
        if len(training.labels) != training.size:
            raise ValueError(
                f"num_negatives={num_negatives!r}: are examples of other classes, and here every token has a label"
            )
        self.taps = (self.student_tap,)
        self._ask_features(self.teacher_tap)
        self._training = training
        self._classes: _Classes | None = None  # found in the first step: it makes the device wait
        self.student_projection = nn.Linear(math.prod(pair.student.shape(self.student_tap)), embedding_size)
        self.teacher_projection = nn.Linear(math.prod(pair.teacher.shape(self.teacher_tap)), embedding_size)
        bound = math.sqrt(3 / embedding_size)  # of length 1 on average
        for memory in ("student_memory", "teacher_memory"):
            self.register_buffer(memory, torch.empty(training.size, embedding_size).uniform_(-bound, bound))
        # log Z of L_s and of L_t: what the first batch shows, from then on.
        self.register_buffer("log_z", torch.full((2,), math.nan))

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        ours = losses.embedding(self.student_projection(student.features[self.student_tap].flatten(1)))
        theirs = losses.embedding(self.teacher_projection(teacher.features[self.teacher_tap].flatten(1)))
        chosen = torch.cat([batch.index[:, None], self._negatives(batch)], dim=1)
        loss = self._loss(0, ours, self.teacher_memory, chosen) + self._loss(1, theirs, self.student_memory, chosen)
        first_views = len(batch.index) // batch.views
        self.student_memory = self._moved(self.student_memory, batch.index[:first_views], ours[:first_views])
        self.teacher_memory = self._moved(self.teacher_memory, batch.index[:first_views], theirs[:first_views])
        return loss

    def _loss(self, number: int, embeddings: Tensor, memory: Tensor, chosen: Tensor) -> Tensor:
        scores = losses.contrastive_scores(embeddings, memory, chosen, temperature=self.temperature)
        with torch.no_grad():
            found = losses.log_normalizer(scores, len(memory))
            self.log_z[number] = torch.where(self.log_z[number].isnan(), found, self.log_z[number])
        return losses.contrastive_loss(scores, self.log_z[number].clone(), num_examples=len(memory))

    @torch.no_grad()
    def _moved(self, memory: Tensor, index: Tensor, embeddings: Tensor) -> Tensor:
        """The memory after these images were seen: another tensor, since backward needs the old one."""
        moved = self.momentum * memory[index] + (1 - self.momentum) * embeddings
        return memory.index_copy(0, index, losses.embedding(moved))

    def _negatives(self, batch: Batch) -> Tensor:
        """For each image the positions of k images of other classes, `[N, k]`."""
        labels = self._training.labels
        if self._classes is None:
            self._classes = _Classes.of(labels, self._training.num_classes)
        if self.num_negatives > self._classes.fewest_others:
            return self._classes.others(batch.y, self.num_negatives, batch.generator)
        keys = torch.rand(len(batch.y), len(labels), generator=batch.generator, device=labels.device)
        return keys.masked_fill_(labels == batch.y[:, None], -1).topk(self.num_negatives, sorted=False).indices


@dataclass(frozen=True)
class _Classes:
    """Positions in the training set by class: `order [M]`, of which `counts [K]` of each class begin at `first [K]`."""

    order: Tensor
    counts: Tensor
    first: Tensor
    fewest_others: int

    @staticmethod
    def of(labels: Tensor, num_classes: int) -> _Classes:
        counts = labels.bincount(minlength=num_classes)
        fewest = len(labels) - int(counts.max())
        if fewest == 0:
            raise ValueError("crd takes negatives of other classes, and the training images are of one class")
        return _Classes(labels.argsort(stable=True), counts, counts.cumsum(0) - counts, fewest)

    def others(self, y: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """Positions of images of other classes than y `[N]`, drawn evenly with replacement: `[N, number]`."""
        own, first = self.counts[y, None], self.first[y, None]
        drawn = torch.randint(2**32, (len(y), number), generator=generator, device=y.device)
        places = (drawn * (len(self.order) - own)) >> 32
        return self.order[places + own * (places >= first)]  # what is of the own class is stepped over
