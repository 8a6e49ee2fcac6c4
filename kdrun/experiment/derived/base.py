"""The base of derived figures: the runs they are computed from, a key, and a stored record."""

from __future__ import annotations

import dataclasses
import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from kdrun.files import DamagedError, read_record, sha256, write_record
from kdrun.metrics import classification_metrics
from kdrun.spec.own_code import sources
from kdrun.spec.spec import Spec
from kdrun.store.run import read_written
from kdrun.store.store import Store

if TYPE_CHECKING:
    from kdrun.experiment.runner import Runner


@dataclass(frozen=True)
class Derived(ABC):
    """Figures of one seed, computed from finished runs. A kind is a subclass: its further fields are its options.

    Attributes:
        specs: of the runs, all on the same test images.

    Raises:
        ValueError: runs or options that do not fit, a line `option: reason` for each.
    """

    specs: tuple[Spec, ...]

    kind: ClassVar[str]
    """In the key; by default the class's name in lower case."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.kind = vars(cls).get("kind", cls.__name__.lower())

    @abstractmethod
    def compute(self, runner: Runner) -> dict[str, Any]:
        """The figures, as plain values.

        Args:
            runner: has the finished runs of `specs`, returns their networks' logits, and executes further specs.
        """

    @abstractmethod
    def words(self) -> str:
        """What is computed, instead of a run's objective."""

    @property
    def further(self) -> Sequence[Spec]:
        """Runs that `compute` executes for these figures alone, where they are known before; for the dry run."""
        return ()

    @property
    def options(self) -> dict[str, Any]:
        """By name, as in JSON; those at their default are left out, so a new option changes no existing key."""
        fields = [field for field in dataclasses.fields(self) if field.name != "specs"]
        changed = {field.name: value for field in fields if (value := getattr(self, field.name)) != field.default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Kind, options and run_ids, as plain values; of code from outside kdrun its source, too."""
        cls = type(self)
        source = sources(cls, f"{cls.__module__}.{cls.__qualname__}", self.options)
        return {
            "kind": self.kind,
            "options": self.options,
            "run_ids": [spec.run_id for spec in self.specs],
            **({} if source is None else {"source": source}),
        }

    @property
    def key(self) -> str:
        """First 10 hex digits of the SHA-256 of the identity."""
        return sha256(json.dumps(self.identity, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())[:10]

    def at_precision(self, precision: str) -> Self:
        """The same of the runs in another precision."""
        return dataclasses.replace(self, specs=tuple(spec.at_precision(precision) for spec in self.specs))


class DerivedRow(Derived):
    """Derived figures that can be a table's row: predictions on the test set.

    Its `compute` returns what `described` returns; with `figures`, a number for each of the class's `figures`, where
    it has some.
    """

    several: ClassVar[bool] = False
    """Whether it is computed from several runs of a seed, or from one."""

    figures: ClassVar[Mapping[str, str]] = {}
    """What it computes beside the metrics on the test set: names of columns, and what they are."""


def kept(store: Store, derived: Derived) -> dict[str, Any] | None:
    """The recorded figures, here or published; None without a record, or where the runs' weights have changed.

    Raises:
        DamagedError: the record, or a run's result, is damaged, or the record is of another figure.
    """
    path = store.find_derived(derived.key)
    if path is None:
        return None
    record: dict[str, Any] = read_written(path, read_record)
    if any(record.get(name) != value for name, value in derived.identity.items()):
        raise DamagedError(f"{path} is another figure, {record.get('kind')} of {record.get('run_ids')}; move it away")
    recorded = record.get("weights_sha256")  # older records lack it
    return None if recorded is not None and _weights(derived, store, recorded) != recorded else record


def _weights(derived: Derived, store: Store, absent: Sequence[str | None]) -> list[str | None]:
    """The SHA-256 of the weights of its runs; for a run that does not exist the entry of `absent`."""
    runs = (store.find(spec) for spec in derived.specs)
    return [
        other if run is None else run.result()["student"]["weights_sha256"]
        for run, other in zip(runs, absent, strict=True)
    ]


def compute(derived: Derived, runner: Runner) -> dict[str, Any]:
    """The figures with their identity: from the record under `derived/`, else computed and recorded there.

    Raises:
        DamagedError: the record is damaged.
        kdrun.store.checkpoint.CheckpointError: weights are not those of their result.
    """
    found = kept(runner.store, derived)
    if found is None:
        figures = derived.compute(runner)
        weights = _weights(derived, runner.store, [None] * len(derived.specs))
        found = {**derived.identity, "weights_sha256": weights, **figures}
        path = runner.store.derived(derived.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, found)
    return found


def described(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Metrics of predictions on the test set.

    Args:
        logits: `[N, K]`.
        labels: `[N]`.

    Returns:
        `test.last`, the metrics as of a run; `class_errors`, how many images of each class are wrong.
    """
    wrong = labels[logits.argmax(dim=1) != labels]
    errors = torch.bincount(wrong, minlength=logits.shape[1]).tolist()
    return {"test": {"last": classification_metrics(logits, labels)}, "class_errors": errors}
