"""A run is a pure function of its spec: everything that can change a number beyond rounding, and nothing else."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kdrun.limits import MOST_EPOCHS
from kdrun.spec.augmentation import Augmentation
from kdrun.spec.dataset import DatasetSpec, Source, kind_of
from kdrun.spec.signature import enforce

OPTIMIZERS = ("sgd", "adam", "adamw")

SEMANTICS = 2
"""Raised when a default, or the meaning of a field, changes: results of different semantics are different runs.

2: tfkd_reg is the released form by default, with a multiplier of K; the joint output of specialists, the defaults of
dist, and the default taps of at, sp, fsp and fitnet are others.
"""


MOST_IN_A_BATCH = 1_000_000
"""Examples of a batch."""

MOST_MILESTONES = 1_000


def _increasing_shares(values: tuple[float, ...]) -> bool:
    edges = (0.0, *values, 1.0)
    return all(low < high for low, high in itertools.pairwise(edges))


@dataclass(frozen=True)
class Component:
    """A `_target_` node: a dotted path, and the options that are not at their default.

    Attributes:
        target: what is built.
        options: by name.
        source: what a target from outside kdrun is made of, see `Source`.
    """

    target: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: Source | None = None

    @property
    def name(self) -> str:
        return self.target.rpartition(".")[2]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the released recipe of Tf-KD for CIFAR-100.

    Attributes:
        epochs: length of the whole schedule, from 1 to 1,000,000.
        batch_size: images per step, from 2 to 1,000,000.
        lr: learning rate at `lr_batch_size`; it is scaled in proportion to `batch_size`, or to the number of training
            examples where that is smaller.
        lr_batch_size: None takes `lr` as it is.
        optimizer: `sgd`, `adam` or `adamw`.
        momentum: in [0, 1); beta1 of Adam and AdamW.
        nesterov: SGD only.
        weight_decay: L2 penalty on all parameters, at least 0; AdamW's is decoupled from the gradient.
        decay_norm_and_bias: whether `weight_decay` applies to parameters of one dimension, those of normalisation
            layers and biases; without it they have none, in every optimiser.
        label_smoothing: s in [0, 1) of the hard term, whose target is `(1 - s) q + s / K`.
        accumulate: micro-batches that a step's batch is cut into, whose gradients are added up; at least 1. BatchNorm
            and methods on relations see one micro-batch at a time.
        ema_decay: in (0, 1): what is evaluated and delivered is the exponential moving average of the weights, see
            `kdrun.training.averaging`; None is the weights themselves.
        schedule: `steps`: constant between milestones; or `cosine`: half a cosine down to `min_lr` after the warm-up.
        min_lr: learning rate at the end of `cosine`, from 0 to less than `lr`; it is not scaled.
        milestones: increasing shares of the epochs, in (0, 1), where the learning rate is multiplied by `gamma`.
        gamma: in (0, 1].
        warmup_epochs: linear, per iteration; from 0 to `epochs`.
        clip_norm: gradients are scaled down where their norm over all parameters (L2) is larger; None scales none.
        max_norm: no unit's incoming weights get longer than this (L2), see `bound_norms`; None bounds none.
        evaluate_every: epochs from one evaluation to the next; the last epoch always has one. None is that one alone.
        augmentation: of the training views.
    """

    epochs: int = 200
    batch_size: int = 128
    lr: float = 0.1
    lr_batch_size: int | None = 128
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = True
    label_smoothing: float = 0.0
    accumulate: int = 1
    ema_decay: float | None = None
    schedule: Literal["steps", "cosine"] = "steps"
    min_lr: float = 0.0
    milestones: tuple[float, ...] = (0.3, 0.6, 0.8)
    gamma: float = 0.2
    warmup_epochs: int = 1
    clip_norm: float | None = None
    max_norm: float | None = None
    evaluate_every: int | None = 1
    augmentation: Augmentation = Augmentation()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        enforce(
            self,
            ("epochs", 1 <= self.epochs <= MOST_EPOCHS, f"at least 1 and at most {MOST_EPOCHS}"),
            (
                "batch_size",
                2 <= self.batch_size <= MOST_IN_A_BATCH,
                f"at least 2 (BatchNorm cannot train on one image) and at most {MOST_IN_A_BATCH}",
            ),
            ("lr", self.lr > 0, "more than 0"),
            (
                "lr_batch_size",
                self.lr_batch_size is None or 1 <= self.lr_batch_size <= MOST_IN_A_BATCH,
                f"null or at least 1 and at most {MOST_IN_A_BATCH}",
            ),
            ("optimizer", self.optimizer in OPTIMIZERS, " or ".join(OPTIMIZERS)),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "from 0 to less than 1"),
            (
                "accumulate",
                self.accumulate == 1
                or (1 < self.accumulate < self.batch_size and not self.batch_size % self.accumulate),
                f"1, or a divisor of batch_size={self.batch_size} with at least 2 examples in each part",
            ),
            ("ema_decay", self.ema_decay is None or 0 < self.ema_decay < 1, "null or more than 0 and less than 1"),
            (
                "min_lr",
                self.min_lr == 0 or (self.schedule == "cosine" and 0 < self.min_lr < self.lr),
                "0, or with schedule=cosine less than lr",
            ),
            ("momentum", 0 <= self.momentum < 1, "from 0 to less than 1"),
            ("nesterov", not self.nesterov or self.momentum > 0, "false where momentum is 0"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            (
                "milestones",
                len(self.milestones) <= MOST_MILESTONES and _increasing_shares(self.milestones),
                f"increasing shares of the epochs, in (0, 1), at most {MOST_MILESTONES}",
            ),
            ("gamma", 0 < self.gamma <= 1, "more than 0 and at most 1"),
            ("warmup_epochs", 0 <= self.warmup_epochs <= max(self.epochs, 1), "from 0 to recipe.epochs"),
            ("clip_norm", self.clip_norm is None or self.clip_norm > 0, "null or more than 0"),
            ("max_norm", self.max_norm is None or self.max_norm > 0, "null or more than 0"),
            (
                "evaluate_every",
                self.evaluate_every is None or 1 <= self.evaluate_every <= MOST_EPOCHS,
                f"null or at least 1 and at most {MOST_EPOCHS}",
            ),
        )

    def evaluates(self, epoch: int) -> bool:
        """Whether an epoch (from 1) that is not the last one is evaluated."""
        return self.evaluate_every is not None and epoch % self.evaluate_every == 0

    @property
    def has_hard_labels(self) -> bool:
        """Whether an image has one label, which is not smoothed."""
        return self.label_smoothing == 0 and not self.augmentation.mixes

    @property
    def micro_batch_size(self) -> int:
        """Examples that a step computes at a time."""
        return self.batch_size // self.accumulate

    @property
    def scaled_lr(self) -> float:
        """The learning rate at this batch size."""
        return self.lr * self.batch_size / (self.lr_batch_size or self.batch_size)


@dataclass(frozen=True)
class Spec:
    """One run, whole: its teachers' specs are inside it.

    Attributes:
        dataset: what is trained and tested on.
        student: the network that is trained.
        method: what it is trained by.
        recipe: how.
        seed: of initialisation, order, views and dropout.
        precision: `fp32` or `bf16`, resolved.
        stop_epoch: epochs of the full schedule after which the run stops; None is all.
        teachers: in the order the method gets them.
        weights: SHA-256 of a file with weights of the user's own: nothing is trained then.
        start: the run whose student's weights this one begins with; None is from the seed. Its outputs are taken
            by the classes they stand for.
        semantics: see `SEMANTICS`.
    """

    dataset: DatasetSpec
    student: Component
    method: Component
    recipe: Recipe = Recipe()
    seed: int = 0
    precision: str = "fp32"
    stop_epoch: int | None = None
    teachers: tuple[Spec, ...] = ()
    weights: str | None = None
    start: Spec | None = None
    semantics: int = SEMANTICS

    def canonical(self) -> dict[str, Any]:
        """The spec as plain JSON values; fields at their default are left out, but `semantics` never."""
        plain: dict[str, Any] = _plain(self)
        return plain

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces. What `run_id` hashes."""
        return _json(self.canonical())

    @functools.cached_property
    def digest(self) -> str:
        """Hex SHA-256 of `to_json()`."""
        return _sha256(self.to_json())

    @property
    def run_id(self) -> str:
        """First 10 hex digits of `digest`."""
        return self.digest[:10]

    def run_ids_stopped_at(self, epochs: Iterable[int]) -> Iterator[str]:
        """The run_id of the same spec with each of these as its `stop_epoch`: a hash each, of text encoded once."""
        fields = self.canonical()
        head = _json({name: value for name, value in fields.items() if name < "stop_epoch"}).removesuffix("}")
        tail = _json({name: value for name, value in fields.items() if name > "stop_epoch"}).removeprefix("{")
        for epoch in epochs:
            yield _sha256(f'{head},"stop_epoch":{epoch},{tail}')[:10]

    @property
    def identity(self) -> dict[str, str]:
        """`run_id` and `spec_sha256`, which every file of the run carries, so that one of another run is noticed."""
        return {"run_id": self.run_id, "spec_sha256": self.digest}

    @property
    def total_epochs(self) -> int:
        """Length of the whole schedule: the recipe's epochs, after those of a method's first stage."""
        return self.stage1_epochs + self.recipe.epochs

    @property
    def stage1_epochs(self) -> int:
        """Length of the first of the method's two stages; 0 where it has one."""
        epochs: int = self.method.options.get("stage1_epochs", 0)
        return epochs

    @property
    def epochs_trained(self) -> int:
        """Epochs this run trains."""
        if self.weights is not None:
            return 0
        return self.total_epochs if self.stop_epoch is None else self.stop_epoch

    @property
    def stopped_in_stage1(self) -> bool:
        """Whether the run is over, by its `stop_epoch`, before the second of its method's stages begins."""
        return self.stop_epoch is not None and 0 < self.stop_epoch <= self.stage1_epochs

    def all_teachers(self) -> Iterator[Spec]:
        """The run's teachers and theirs, each after its teachers."""
        for teacher in self.teachers:
            yield from teacher.all_teachers()
            yield teacher

    @property
    def before(self) -> tuple[Spec, ...]:
        """The runs that must be finished before this one begins: its teachers, and the one that it starts from."""
        return self.teachers if self.start is None else (*self.teachers, self.start)

    def all_before(self) -> Iterator[Spec]:
        """The runs of `before` and those before them, each after its predecessors."""
        for spec in self.before:
            yield from spec.all_before()
            yield spec

    def at_precision(self, precision: str) -> Spec:
        """The same run and teachers, computed in another precision."""
        teachers = tuple(teacher.at_precision(precision) for teacher in self.teachers)
        start = self.start and self.start.at_precision(precision)
        return dataclasses.replace(self, precision=precision, teachers=teachers, start=start)

    def at_semantics(self, semantics: int) -> Spec:
        """The spec of the same fields under another semantics, its teachers too: another run."""
        teachers = tuple(teacher.at_semantics(semantics) for teacher in self.teachers)
        start = self.start and self.start.at_semantics(semantics)
        return dataclasses.replace(self, teachers=teachers, start=start, semantics=semantics)

    def sources(self) -> dict[str, str]:
        """The sources of all parts from outside kdrun, of this run and of those before it, by name."""
        found: dict[str, str] = {}
        for spec in (self, *self.all_before()):
            for part in (spec.dataset, spec.student, spec.method):
                if part.source is not None:
                    found |= {part.target: part.source} if isinstance(part.source, str) else part.source
        return found

    def without_sources(self) -> Spec:
        """The spec, and those of all runs before it, without the sources of code from outside kdrun."""
        return dataclasses.replace(
            self,
            dataset=self.dataset.without_source(),
            student=dataclasses.replace(self.student, source=None),
            method=dataclasses.replace(self.method, source=None),
            teachers=tuple(teacher.without_sources() for teacher in self.teachers),
            start=self.start and self.start.without_sources(),
        )

    @classmethod
    def from_canonical(cls, values: Mapping[str, Any]) -> Spec:
        """The inverse of `canonical()`."""
        fields = dict(values)
        fields["dataset"] = kind_of(fields["dataset"])(**as_tuples(fields["dataset"]))
        for part in ("student", "method"):
            node = fields[part]
            fields[part] = Component(node["target"], as_tuples(node.get("options", {})), node.get("source"))
        recipe = as_tuples(fields.get("recipe", {}))
        recipe["augmentation"] = Augmentation.from_plain(recipe.get("augmentation", {}))
        fields["recipe"] = Recipe(**recipe)
        fields["teachers"] = tuple(cls.from_canonical(teacher) for teacher in fields.get("teachers", ()))
        if "start" in fields:
            fields["start"] = cls.from_canonical(fields["start"])
        return cls(**fields)


def _json(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def as_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as tuples, in the mappings within, too."""
    return {
        name: tuple(value) if isinstance(value, list) else as_tuples(value) if isinstance(value, dict) else value
        for name, value in values.items()
    }


def _plain(value: Any) -> Any:
    """Nested dataclasses as dictionaries of plain values, without the fields that are at their default."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: (getattr(value, field.name), field) for field in dataclasses.fields(value)}
        changed = {name: _plain(item) for name, (item, field) in fields.items() if item != _default(field)}
        return {**changed, "semantics": value.semantics} if isinstance(value, Spec) else changed
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
