"""The Method protocol: what a training step hands to a method, and what it takes back.

The trainer knows only `objective = method(batch, teacher); objective.loss.backward()`. A method never calls a
teacher: it declares in `needs` what it requires, and gets it as a `TeacherOutput`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kdrun import losses
from kdrun.distributed import Part
from kdrun.methods.facts import INJECTED, Facts, Knowledge, LabelKind, Options, added
from kdrun.mixed import Mixed
from kdrun.taps import Outline, tapped


@dataclass(frozen=True)
class Needs:
    """A method's requirements of the teacher and of the batches.

    Attributes:
        logits: the teacher's logits on the student's views; every method with a teacher needs them.
        features: the outputs of the teacher's modules of these paths, see `kdrun.taps`.
        weights: the teacher's parameters and buffers.
        several: any number of teachers is taken, one at least. The option `num_teachers`, of a method that has it, is
            how many are trained where the config names none, and becomes their number where it names them.
        own_architecture: the teacher must be another training of the student's own architecture
            (self-distillation), whatever teacher the config names.
        generations: the teacher is the same run with the option `generation` one less, and an ordinary training before
            the first.
        assistant: the teacher is a network of its own choice that was itself taught, by `KD` with the same options, by
            the teacher that the config names.
        any_task: the teacher may have learned another dataset: its logits are compared with nothing. A class whose
            options decide has True, its instances what applies to them.
        views: how many random views of each image a batch has, at least 1. A batch of N images then has `views * N`
            rows: the first view of each image, the second of each, in the same order.
        per_class: images of one class that follow each other in a batch, at least 1: with 2, rows 0 and 1 are of one
            class, rows 2 and 3, and so on. Each image still comes once an epoch, so what a class has beyond whole
            groups comes last, ungrouped. `recipe.batch_size` must be a multiple.

    Raises:
        ValueError: `views` or `per_class` less than 1.
    """

    logits: bool = False
    features: tuple[str, ...] = ()
    weights: bool = False
    several: bool = False
    own_architecture: bool = False
    generations: bool = False
    assistant: bool = False
    any_task: bool = False
    views: int = 1
    per_class: int = 1

    def __post_init__(self) -> None:
        for name in ("views", "per_class"):
            if getattr(self, name) < 1:
                raise ValueError(f"needs: {name}={getattr(self, name)!r}: must be at least 1")

    @property
    def teacher(self) -> bool:
        """Whether there must be a teacher at all."""
        return self.logits


def together(needs: Sequence[Needs]) -> Needs:
    """The requirements of several methods together, of one teacher and the same batches."""
    return Needs(
        logits=any(asked.logits for asked in needs),
        features=tuple(dict.fromkeys(tap for asked in needs for tap in asked.features)),
        weights=any(asked.weights for asked in needs),
        any_task=all(asked.any_task or not asked.teacher for asked in needs),
        views=max((asked.views for asked in needs), default=1),
        per_class=math.lcm(*(asked.per_class for asked in needs)),
    )


@dataclass(frozen=True)
class Pair:
    """The networks before they are trained.

    Attributes:
        student: its outline.
        teacher: of the (first) teacher; an empty outline where there is none.
        fresh: makes another network of the student's architecture, freshly initialised, on the student's device.
    """

    student: Outline
    teacher: Outline
    fresh: Callable[[], nn.Module]


@dataclass(frozen=True)
class TrainingSet:
    """The training examples, for a method's constructor.

    When a command is checked no data is loaded: `labels` is then on the meta device, and its length near the true one.
    So a constructor may look at shapes and not at values; `objective` may look at both.

    Attributes:
        labels: int64 `[M]`, in the order of `Batch.index`, on the student's device: numbers of the network's outputs.
            Of a language model `[M * L]`, one for each token.
        size: M, the number of examples.
        num_classes: K, the number of the network's outputs.
    """

    labels: Tensor
    size: int
    num_classes: int


@dataclass(frozen=True)
class Batch:
    """One training batch of N views.

    Of a language model every token has a label, and a row of logits: for y and all logits N is then the number of
    tokens, sequence by sequence.

    Attributes:
        x: images `[N, C, H, W]`, float32, normalised; or sequences of tokens `[N, L]`, int64.
        y: labels `[N]`, int64; of a mixed image that of its own, unmixed image.
        index: positions `[N]` in the training set, int64.
        epoch: counted from 0 over the whole run.
        step: counted from 0 within the epoch.
        progress: completed share of the schedule of the method's stage, in [0, 1).
        generator: on the device of x, seeded from (seed, epoch, step): for a method's own draws.
        views: of each image, see `Needs.views`: `batch.x.chunk(batch.views)` has one view of all images each.
        mixed: the second labels of images mixed in pairs; None where images are not mixed.
        label_smoothing: the recipe's, in [0, 1).
        divided: what these rows are of a batch that is divided over ranks; None where they are all of it.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    epoch: int
    step: int
    progress: float
    generator: torch.Generator
    views: int = 1
    mixed: Mixed | None = None
    label_smoothing: float = 0.0
    divided: Part | None = None

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """The hard term: the mean cross-entropy of logits `[N, K]` with the labels, smoothed and mixed as they are.

        With smoothing of `s` the target is `(1 - s) q + s / K`, q the label or the mixture of two.
        """
        if self.mixed is None:
            return losses.cross_entropy(logits, self.y, label_smoothing=self.label_smoothing)
        return losses.mixed_cross_entropy(logits, self.y, *self.mixed, label_smoothing=self.label_smoothing)

    def part(self, images: slice) -> Self:
        """The batch of some of its images, with all their views."""
        cut = functools.partial(part_of, images=images, views=self.views, count=len(self.index) // self.views)
        mixed = self.mixed and Mixed(*map(cut, self.mixed))
        return dataclasses.replace(self, x=cut(self.x), y=cut(self.y), index=cut(self.index), mixed=mixed)


@dataclass(frozen=True)
class TeacherOutput:
    """The teacher's output for a batch: ordinary tensors without gradient.

    Attributes:
        logits: `[N, K]`; of several teachers the log of their mean probabilities.
        features: by tap, `[N, ...]`.
        weights: the teacher's state dict, the same tensors at every step.
        members: logits of each of several teachers, `[M, N, K]`; None for one.
        same_task: whether the logits are of the student's classes; else they cannot be compared with the labels.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    members: Tensor | None = None
    same_task: bool = True

    def part(self, images: slice, views: int, count: int) -> TeacherOutput:
        """The output for some of the batch's `count` images, with all their views."""
        cut = functools.partial(part_of, images=images, views=views, count=count)
        return dataclasses.replace(
            self,
            logits=cut(self.logits),
            features={tap: cut(feature) for tap, feature in self.features.items()},
            members=None if self.members is None else torch.stack([cut(member) for member in self.members]),
        )


def part_of(rows: Tensor, *, images: slice, views: int, count: int) -> Tensor:
    """The rows of some images of a batch, whose rows are view by view and image by image; an image can have several."""
    found: Tensor = rows.unflatten(0, (views, count, -1))[:, images].flatten(0, 2)
    return found


NO_TEACHER = TeacherOutput(torch.empty(0, 0))
"""For a term that needs no teacher."""


@dataclass(frozen=True)
class StudentOutput:
    """The student's output for a batch: `logits [N, K]`, and `features` by tap, `[N, ...]`."""

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """A method's loss on a batch.

    Attributes:
        loss: the scalar to minimise.
        logits: the student's, `[N, K]`, for the training metrics.
        terms: the parts of the loss by name, before they are weighed: scalars, logged as they are.
        weighted: the parts by name as they are weighed, whose sum is the loss, without those of weight 0: their shares
            of the gradient are measured once an epoch. Empty: no shares.
    """

    loss: Tensor
    logits: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    weighted: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, logits: Tensor, terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Objective:
        """The objective whose loss is the weighted sum of its terms, added in their order.

        Args:
            logits: the student's, `[N, K]`.
            terms: scalars by name, one at least.
            weights: of each.
        """
        parts = {name: weights[name] * term for name, term in terms.items()}
        weighted = {name: part for name, part in parts.items() if weights[name] != 0}
        return cls(functools.reduce(operator.add, parts.values()), logits, terms, weighted or parts)


class Method(Facts, nn.Module, ABC):
    """Owns the student, and whatever else is learned with it. Subclasses are `methods` of the command line.

    The subclass's constructor takes the student first, `pair` and `training` (`Pair`, `TrainingSet`) if it needs
    them, and its options by keyword; their types and defaults are the schema of `method.*`. Wrong values raise
    `ValueError` there, before anything is trained. What it keeps from step to step is a buffer, so that a run that is
    resumed has it.

    Attributes:
        needs: requirements of the teacher and the batches; complete once the method is built.
        taps: the student's, whose features `objective` gets.
        label_kind: the labels for which the objective is defined. `hard`: one class each. `smoothed`: its hard term is
            `Batch.cross_entropy`, which the recipe can smooth; other terms may use the class, `Batch.y`. `mixed`: it
            uses labels in `Batch.cross_entropy` alone, so images can be mixed in pairs.
        stage: 0, or 1 once the second of two stages has begun.
        stage1_epochs: length of a first stage before the one of `recipe.epochs`; 0 where there is none. A method that
            can have two stages has an option of this name.
        notices: what the user should know of the method as it is built, one line each.
        doubtful: terms whose share of the gradient is a notice as soon as it is measured.
        whole_batch: whether `objective` must see all images of a batch. False where it is a mean over the images, each
            of which needs nothing of the others and draws nothing from `Batch.generator`: then each of several ranks
            computes it on its own images. Else the outputs of all ranks are gathered, and each computes all of it.
            Every class says so itself: it is not inherited.
    """

    needs: Needs = Needs()
    whole_batch: bool = True
    taps: tuple[str, ...] = ()
    label_kind: LabelKind = "hard"
    notices: tuple[str, ...] = ()
    stage: int = 0
    stage1_epochs: int = 0
    doubtful: tuple[str, ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "whole_batch" not in vars(cls):
            cls.whole_batch = True
        if "name" in vars(cls) and "label" not in vars(cls):
            cls.label = cls.name

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        """Returns the objective on one batch.

        Args:
            batch: the views and their labels.
            teacher: the output that `needs` requires; None when it requires none.
        """
        return self.objective(self.ask(batch, teacher), batch, teacher)

    def ask(self, batch: Batch, teacher: TeacherOutput | None) -> StudentOutput:
        """The student's output for the batch, from its one forward pass."""
        with tapped(self.student, self.taps) as features:
            logits = self.student(batch.x)
        return StudentOutput(logits, features)

    @abstractmethod
    def objective(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        """The objective, from the student's output for the batch."""

    @property
    def asks(self) -> bool:
        """Whether the current stage needs the teacher's output."""
        return self.needs.teacher

    def trained(self) -> Iterable[nn.Parameter]:
        """The parameters that this stage trains: all there are."""
        return self.parameters()

    def measured(self) -> list[nn.Parameter]:
        """The parameters that the shares of the gradient are of: the student's that this stage trains.

        Where it trains none of them, as where the student is generated, all that it trains; never frozen ones.
        """
        trained = [parameter for parameter in self.trained() if parameter.requires_grad]
        own = {id(parameter) for parameter in self.student.parameters()}
        return [parameter for parameter in trained if id(parameter) in own] or trained

    def stage1_recipe(self) -> Mapping[str, Any]:
        """What the first of two stages changes of the recipe, by the names of its fields: nothing but the epochs."""
        return {}

    def begin_stage2(self) -> None:
        """Called once, between the last step of the first stage and the first of the second."""
        self.stage = 1

    def delivered(self) -> nn.Module:
        """The student as it stands, to be evaluated and exported."""
        return self.student

    def peers(self) -> Mapping[str, nn.Module]:
        """Other networks that are trained with the student and evaluated beside it, by name: none."""
        return {}


NOT_IN_A_SUM = ("forward", "ask", "objective", "trained", "delivered", "peers")
"""Methods of a class that a sum does not use; a class that can have two stages uses them for these alone."""


class Distillation(Method):
    """`hard_weight * CE + weight * term`: what most methods are, and what `sum` adds up.

    Subclasses compute their term in `distill`, without its weight:

    >>> class Cosine(Distillation):
    ...     name = "cosine"
    ...
    ...     def __init__(self, student: nn.Module, *, weight: float = 2.0) -> None:
    ...         super().__init__(student)
    ...         self.weigh(weight)
    ...
    ...     def distill(self, student, batch, teacher):
    ...         return 1 - torch.cosine_similarity(student.logits, teacher.logits).mean()
    >>> x, y = torch.eye(2), torch.tensor([0, 1])
    >>> batch = Batch(x, y, index=y, epoch=0, step=0, progress=0.0, generator=torch.Generator())
    >>> objective = Cosine(nn.Identity(), weight=0.5)(batch, TeacherOutput(logits=-x))
    >>> {name: round(value.item(), 3) for name, value in objective.terms.items()}
    {'ce': 0.313, 'cosine': 2.0}
    >>> Cosine.objective_text(Cosine.defaults(), num_classes=2)
    'CE + 2 cosine'

    A `method/cosine.yaml` with `_target_: PACKAGE.Cosine` and `weight: 2.0` makes it `kdrun method=cosine`, and a term:
    `method.terms.NAME._target_=PACKAGE.Cosine`.

    Attributes:
        term: the name that the term is logged by; empty where it is the method's own.
        hard_weight: of the cross-entropy with the labels, from 0 to 1e9.
        weight: of the term, likewise.
        alone: options that only weigh and time the term, and so have no meaning where it is one of a sum.
    """

    knowledge: ClassVar[Knowledge] = "response"
    needs = Needs(logits=True)
    label_kind: LabelKind = "smoothed"
    term: ClassVar[str] = ""
    alone: ClassVar[tuple[str, ...]] = ("weight", "hard_weight")
    hard_weight: float = 1.0
    weight: float = 1.0

    def weigh(self, weight: float | None = None, hard_weight: float | None = None) -> None:
        """Checks and sets the weights, of a subclass that has them as options; None is the class's."""
        for name, value in {"weight": weight, "hard_weight": hard_weight}.items():
            if value is not None:
                losses.check_weight(name, value)
                setattr(self, name, value)

    def objective(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        ce = batch.cross_entropy(student.logits)
        term = self.distill(student, batch, NO_TEACHER if teacher is None else teacher)
        name = self.term or self.name
        return Objective.of(student.logits, {"ce": ce, name: term}, {"ce": self.hard_weight, name: self.weight})

    @abstractmethod
    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        """The distillation term, a scalar; `teacher` is empty where `needs` requests none."""

    @classmethod
    def weighting(cls, options: Options) -> tuple[float, float]:
        """The weights of cross-entropy and term: the options of these names, or what the class has."""
        return options.get("hard_weight", cls.hard_weight), options.get("weight", cls.weight)

    @classmethod
    def objective_text(cls, options: Options, num_classes: int) -> str:
        if options.get("stage1_epochs"):
            return super().objective_text(options, num_classes)
        hard, weight = cls.weighting(options)
        return added((hard, "CE"), (weight, cls.name))

    @classmethod
    def why_no_term(cls) -> str | None:
        first_stage = inspect.signature(cls).parameters.get("stage1_epochs")
        own = [name for name in NOT_IN_A_SUM if getattr(cls, name) is not getattr(Distillation, name)]
        reasons = {
            f"a sum uses its distill alone, and it has its own {' and '.join(own)}": bool(own) and first_stage is None,
            "it has several teachers, a sum has one": cls.needs.several,
            "its teacher is of the student's own architecture": cls.needs.own_architecture,
            "its teacher is an assistant with a teacher of its own": cls.needs.assistant,
            "it has no form of one stage": first_stage is not None and first_stage.default is first_stage.empty,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    @classmethod
    def default_weight(cls) -> float:
        """The weight of the term where none is given."""
        return cls.weighting(cls.defaults())[1]

    @classmethod
    def term_options(cls) -> dict[str, Any]:
        """As a term of a sum: its weight, and the options that have a meaning there, at their defaults."""
        options = [name for name in inspect.signature(cls).parameters if name not in (*INJECTED, *cls.alone)]
        return {"weight": cls.default_weight(), **{name: cls.defaults().get(name) for name in options}}

    def _ask_features(self, *taps: str) -> None:
        """Adds the outputs of these modules of the teacher to `needs`."""
        self.needs = dataclasses.replace(self.needs, features=tuple(dict.fromkeys(taps)))
