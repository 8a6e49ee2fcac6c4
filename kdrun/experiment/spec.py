"""A run is a pure function of its spec: everything that can change a number beyond rounding, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdrun.data import Augmentation
from kdrun.training.optimisation import OPTIMIZERS

SEMANTICS = 1
"""Raised when a default, or the meaning of a field, changes: results of different semantics are different runs."""


def _enforce(instance: Any, *rules: tuple[str, bool, str]) -> None:
    """Raises one `ValueError` with a line for each (field, holds, what is allowed) that does not hold."""
    broken = [(name, getattr(instance, name), allowed) for name, holds, allowed in rules if not holds]
    if broken:
        shown = [(name, list(value) if isinstance(value, tuple) else value, allowed) for name, value, allowed in broken]
        raise ValueError("\n".join(f"{name}={value!r}: must be {allowed}" for name, value, allowed in shown))


def _increasing_shares(values: tuple[float, ...]) -> bool:
    edges = (0.0, *values, 1.0)
    return all(low < high for low, high in itertools.pairwise(edges))


@dataclass(frozen=True)
class Component:
    """A `_target_` node: a dotted path, and the options that are not at their default.

    Attributes:
        target: what is built.
        options: by name.
        source: SHA-256 of the file that defines a target of the user's own, so that editing it makes another run;
            None for kdrun's own, which `SEMANTICS` covers.
    """

    target: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: str | None = None

    @property
    def name(self) -> str:
        return self.target.rpartition(".")[2]


TASK = ("target", "identity", "num_classes", "in_channels", "image_size", "train_size", "test_size")
"""What makes a dataset itself, and not a choice of its images."""

VIEWS = ("in_channels", "image_size", "mean", "std")
"""What a network trained on it expects of its input."""


@dataclass(frozen=True)
class DatasetSpec:
    """What is trained and tested on. Its place on disk is not part of it.

    Attributes:
        target: dotted path of the loader.
        identity: official checksum, or hash of what was found (`folder`).
        num_classes: K.
        in_channels: 1 or 3.
        image_size: height and width in pixels.
        train_size: images before any selection.
        test_size: images.
        mean: per channel, of pixel values in [0, 1].
        std: per channel.
        train_fraction: share of the training set that is trained on, in (0, 1], stratified.
        val_fraction: share of the training set that is held out, in [0, 1), stratified.
        classes: the classes that stay in the training set; None is all.
        special: the classes of a specialist: it is trained on their images and as many others, drawn evenly from the
            rest; None is no specialist.
        dustbin: whether a specialist tells its own classes only, and all others as one more; else it has all K.
    """

    target: str
    identity: str
    num_classes: int
    in_channels: int
    image_size: int
    train_size: int
    test_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_fraction: float = 1.0
    val_fraction: float = 0.0
    classes: tuple[int, ...] | None = None
    special: tuple[int, ...] | None = None
    dustbin: bool = True

    def __post_init__(self) -> None:
        special = self.special is None or (self._are_classes(self.special) and len(self.special) < self.num_classes)
        _enforce(
            self,
            ("num_classes", self.num_classes >= 2, "at least 2"),
            ("in_channels", self.in_channels in (1, 3), "1 or 3"),
            ("image_size", self.image_size >= 8, "at least 8"),
            ("train_size", self.train_size >= 2, "at least 2"),
            ("test_size", self.test_size >= 1, "at least 1"),
            ("mean", len(self.mean) == self.in_channels, "one number per channel"),
            ("std", len(self.std) == self.in_channels and min(self.std) > 0, "one number above 0 per channel"),
            ("train_fraction", 0 < self.train_fraction <= 1, "more than 0 and at most 1"),
            ("val_fraction", 0 <= self.val_fraction < 1, "from 0 to less than 1"),
            (
                "classes",
                self.classes is None or self._are_classes(self.classes),
                f"null, or class indices from 0 to {self.num_classes - 1}, each once",
            ),
            ("special", special, f"null, or class indices from 0 to {self.num_classes - 1}, each once, not all"),
        )

    @property
    def num_train_images(self) -> int:
        """Images that are trained on, to a rounding per class; every class gives one at least."""
        classes = self.num_classes if self.classes is None else len(self.classes)
        share = classes / self.num_classes
        if self.special is not None:
            chosen = set(self.special) & set(self.special if self.classes is None else self.classes)
            share = min(share, 2 * len(chosen) / self.num_classes)
        return max(classes, round(self.train_size * (1 - self.val_fraction) * self.train_fraction * share))

    def _are_classes(self, labels: tuple[int, ...]) -> bool:
        return bool(labels) and len(set(labels)) == len(labels) and set(labels) <= set(range(self.num_classes))

    @property
    def outputs(self) -> tuple[tuple[int, ...], ...]:
        """The classes that each output of a network stands for: one, but of a specialist's dustbin all the rest."""
        if self.special is None or not self.dustbin:
            return tuple((label,) for label in range(self.num_classes))
        rest = tuple(label for label in range(self.num_classes) if label not in self.special)
        return (*((label,) for label in self.special), rest)

    @property
    def name(self) -> str:
        return self.target.rpartition(".")[2]

    def same_task(self, other: DatasetSpec) -> bool:
        """Whether it is the other dataset with the same answers, however images are chosen from it and normalised."""
        return self.outputs == other.outputs and all(getattr(self, name) == getattr(other, name) for name in TASK)

    def same_views(self, other: DatasetSpec) -> bool:
        """Whether a network trained on the other dataset takes the views of this one as they are."""
        return all(getattr(self, name) == getattr(other, name) for name in VIEWS)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the released recipe of Tf-KD for CIFAR-100.

    Attributes:
        epochs: length of the whole schedule, at least 1.
        batch_size: images per step, at least 2.
        lr: learning rate at `lr_batch_size`; it is scaled in proportion to `batch_size`.
        lr_batch_size: None takes `lr` as it is.
        optimizer: `sgd` or `adam`.
        momentum: in [0, 1); Adam's beta1.
        nesterov: SGD only.
        weight_decay: L2 penalty on all parameters, at least 0.
        milestones: increasing shares of the epochs, in (0, 1), where the learning rate is multiplied by `gamma`.
        gamma: in (0, 1].
        warmup_epochs: linear, per iteration; from 0 to `epochs`.
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
    milestones: tuple[float, ...] = (0.3, 0.6, 0.8)
    gamma: float = 0.2
    warmup_epochs: int = 1
    max_norm: float | None = None
    evaluate_every: int | None = 1
    augmentation: Augmentation = Augmentation()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        _enforce(
            self,
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2, "at least 2 (BatchNorm cannot train on one image)"),
            ("lr", self.lr > 0, "more than 0"),
            ("lr_batch_size", self.lr_batch_size is None or self.lr_batch_size >= 1, "null or at least 1"),
            ("optimizer", self.optimizer in OPTIMIZERS, " or ".join(OPTIMIZERS)),
            ("momentum", 0 <= self.momentum < 1, "from 0 to less than 1"),
            ("nesterov", not self.nesterov or self.momentum > 0, "false where momentum is 0"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("milestones", _increasing_shares(self.milestones), "increasing shares of the epochs, in (0, 1)"),
            ("gamma", 0 < self.gamma <= 1, "more than 0 and at most 1"),
            ("warmup_epochs", 0 <= self.warmup_epochs <= max(self.epochs, 1), "from 0 to recipe.epochs"),
            ("max_norm", self.max_norm is None or self.max_norm > 0, "null or more than 0"),
            ("evaluate_every", self.evaluate_every is None or self.evaluate_every >= 1, "null or at least 1"),
        )

    def evaluates(self, epoch: int) -> bool:
        """Whether an epoch (from 1) that is not the last one is evaluated."""
        return self.evaluate_every is not None and epoch % self.evaluate_every == 0

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
        stop_epoch: the network as it is after so many epochs of the full schedule; None trains through.
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
        return json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def run_id(self) -> str:
        """First 10 hex digits of the SHA-256 of `to_json()`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:10]

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
        """Its teachers, each after its own."""
        for teacher in self.teachers:
            yield from teacher.all_teachers()
            yield teacher

    @property
    def before(self) -> tuple[Spec, ...]:
        """The runs that must be finished before this one begins: its teachers, and the one that it starts from."""
        return self.teachers if self.start is None else (*self.teachers, self.start)

    def all_before(self) -> Iterator[Spec]:
        """Those of `before`, each after its own."""
        for spec in self.before:
            yield from spec.all_before()
            yield spec

    def at_precision(self, precision: str) -> Spec:
        """The same run and teachers, computed in another precision."""
        teachers = tuple(teacher.at_precision(precision) for teacher in self.teachers)
        start = self.start and self.start.at_precision(precision)
        return dataclasses.replace(self, precision=precision, teachers=teachers, start=start)

    @classmethod
    def from_canonical(cls, values: Mapping[str, Any]) -> Spec:
        """The inverse of `canonical()`."""
        fields = dict(values)
        fields["dataset"] = DatasetSpec(**as_tuples(fields["dataset"]))
        for part in ("student", "method"):
            node = fields[part]
            fields[part] = Component(node["target"], as_tuples(node.get("options", {})), node.get("source"))
        recipe = as_tuples(fields.get("recipe", {}))
        recipe["augmentation"] = Augmentation(**recipe.get("augmentation", {}))
        fields["recipe"] = Recipe(**recipe)
        fields["teachers"] = tuple(cls.from_canonical(teacher) for teacher in fields.get("teachers", ()))
        if "start" in fields:
            fields["start"] = cls.from_canonical(fields["start"])
        return cls(**fields)


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
