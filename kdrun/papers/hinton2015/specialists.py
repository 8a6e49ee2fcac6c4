"""A generalist with specialists for the classes that it confuses: Hinton, Vinyals, Dean 2015, section 5."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kdrun.experiment.derived import DerivedRow, described
from kdrun.experiment.initial_weights import has_bias, last_layer, oversampling_correction
from kdrun.log import log
from kdrun.papers.hinton2015.joint_prediction import (
    accuracy_by_coverage,
    active,
    class_sets,
    combined,
    conditional_accuracy,
)
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component, Spec

if TYPE_CHECKING:
    from kdrun.experiment.runner import Runner


@dataclass(frozen=True)
class Specialists(DerivedRow):
    """The joint answer of a generalist and the specialists that are trained for it.

    The generalist's predictions on its training images say which classes are confused; for each such set a specialist
    begins with the generalist's weights and is trained on the images of the set and as many others, drawn by the
    generalist's seed. Both answer together, see `joint_prediction`.

    A specialist begins at the prior of its training set (`begin_from`) and answers with its dustbin corrected, so the
    correction holds after any number of steps. Soft targets must have that prior too. With c the correction and 1_R
    one for each class outside the set, labels draw the logits s towards those of the generalist z less c 1_R, and
    soft targets at T from z draw s towards z: the two would meet between them, and neither s nor s + c 1_R would be
    right. The targets are therefore `softmax((z - c 1_R) / T)`: a generalist that is right is then the minimum of both
    terms, where the specialist begins. Their teacher is the specialist itself before its first step
    (`stop_epoch=0`). Before training its corrected answer is the generalist's, over the set's classes and the others
    together; that of a specialist with a dustbin differs as described at `regrouped`.

    Attributes:
        num_sets: clusters of classes, from 1 to K; None is a tenth of K, at least three.
        size: share of the classes in each set, in (0, 1): sets then overlap; None: the clusters themselves.
        epochs: of a specialist, as a share of the generalist's, more than 0; else it has its recipe, without warm-up.
        lr: of a specialist, as a share of the generalist's, more than 0.
        num_top: how many of the generalist's likeliest classes call their specialists, at least 1.
        soft_targets: against over-fitting (section 6.1): instead of a dustbin a specialist has all the classes, and
            the generalist's soft targets at this temperature, weighed by 0.5; None is a dustbin and labels alone.
    """

    num_sets: int | None = None
    size: float | None = None
    epochs: float = 0.2
    lr: float = 0.1
    num_top: int = 1
    soft_targets: float | None = None

    figures: ClassVar[dict[str, str]] = {
        "conditional": "top-1 on images of the specialists' classes, among these classes",
        "generalist's": "the same of the generalist alone",
        "specialists": "how many there are; a cluster of one class has none",
    }

    def __post_init__(self) -> None:
        if not isinstance(self.specs[0].dataset, ImageDatasetSpec):
            raise ValueError(f"of: specialists are of images, and {self.specs[0].dataset.name} has sequences")
        num_classes = self.specs[0].dataset.num_classes
        among = f"from 1 to {num_classes}, the number of classes"
        rules = (
            ("num_sets", 1 <= self._num_sets <= num_classes, f"null, or {among}"),
            ("size", self.size is None or 0 < self.size < 1, "null, or more than 0 and less than 1"),
            ("epochs", self.epochs > 0, "more than 0"),
            ("lr", self.lr > 0, "more than 0"),
            ("num_top", 1 <= self.num_top <= num_classes, among),
            ("soft_targets", self.soft_targets is None or self.soft_targets > 0, "null or more than 0, a temperature"),
        )
        problems = [f"{name}={getattr(self, name)!r}: must be {allowed}" for name, holds, allowed in rules if not holds]
        if not has_bias(last_layer(self.specs[0].student, self.specs[0].dataset)):
            problems.append(f"of: the last layer of {self.specs[0].student.name} has no bias; a specialist needs one")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def _num_sets(self) -> int:
        return max(3, self.specs[0].dataset.num_classes // 10) if self.num_sets is None else self.num_sets

    @property
    def _size(self) -> int | None:
        """Classes of each set: two at least, and never all."""
        num_classes = self.specs[0].dataset.num_classes
        return None if self.size is None else min(max(2, round(self.size * num_classes)), num_classes - 1)

    def words(self) -> str:
        size = "" if self._size is None else f", {self._size} classes each"
        soft = "" if self.soft_targets is None else f", soft targets at T={self.soft_targets:g}"
        return f"specialists for {self._num_sets} clusters{size}{soft}"

    def compute(self, runner: Runner) -> dict[str, Any]:
        (generalist,) = self.specs
        predictions = runner.logits(generalist, "train")[0].double().softmax(dim=1)
        sets = class_sets(predictions, self._num_sets, size=self._size, seed=generalist.seed)
        log.info("%d specialists, of %s classes", len(sets), ", ".join(str(len(classes)) for classes in sets))
        members = [self._specialist(generalist, classes) for classes in sets]
        for member in members:
            runner.execute(member, role="specialist")
        logits, labels = runner.logits(generalist)
        alone = logits.double().log_softmax(dim=1)
        answers = [_answer(runner, member) for member in members]
        asked = active(alone, sets, self.num_top)
        together = combined(alone, answers, sets, asked).log_q
        cover = accuracy_by_coverage(alone, together, labels, sets)
        return {
            **described(together, labels),
            "figures": {
                "conditional": conditional_accuracy(together, labels, sets),
                "generalist's": conditional_accuracy(alone, labels, sets),
                "specialists": len(sets),
            },
            "sets": [list(classes) for classes in sets],
            "specialists": [member.run_id for member in members],
            "cover": [dataclasses.asdict(row) for row in cover],
        }

    def _specialist(self, generalist: Spec, classes: tuple[int, ...]) -> Spec:
        """The run of one specialist."""
        assert isinstance(generalist.dataset, ImageDatasetSpec)
        dataset = dataclasses.replace(
            generalist.dataset, special=classes, special_seed=generalist.seed, dustbin=self.soft_targets is None
        )
        recipe = dataclasses.replace(
            generalist.recipe,
            epochs=max(1, round(self.epochs * generalist.recipe.epochs)),
            lr=self.lr * generalist.recipe.lr,
            warmup_epochs=0,
        )
        member = dataclasses.replace(
            generalist,
            dataset=dataset,
            recipe=recipe,
            method=Component("kdrun.methods.CE"),
            teachers=(),
            stop_epoch=None,
            start=generalist,
        )
        if self.soft_targets is None:
            return member
        soft = Component("kdrun.methods.KD", {"temperature": self.soft_targets, "alpha": 0.5})
        teacher = dataclasses.replace(member, stop_epoch=0)
        return dataclasses.replace(member, method=soft, teachers=(teacher,))


def _answer(runner: Runner, specialist: Spec) -> Tensor:
    """A finished specialist's log-probabilities on the test images, its dustbin corrected: `[N, |S| + 1]`.

    Of its classes in order, and of all others together, whose probabilities are added where it has all classes.
    """
    assert isinstance(specialist.dataset, ImageDatasetSpec)
    answer = runner.logits(specialist)[0].double()
    rest = runner.data(specialist.dataset).rest
    assert rest is not None, "it has special classes"
    if not specialist.dataset.dustbin:
        special = list(specialist.dataset.special or ())
        others = [label for label in range(answer.shape[1]) if label not in special]
        answer = torch.cat([answer[:, special], answer[:, others].logsumexp(dim=1, keepdim=True)], dim=1)
    answer[:, -1] += oversampling_correction(*rest)
    return answer.log_softmax(dim=1)
